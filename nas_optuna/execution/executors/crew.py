"""What every executor with workers of its own keeps: who runs what, who may begin, and whom to tell."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from nas_optuna.errors import NasOptunaError, StudyError
from nas_optuna.execution.events import Callback
from nas_optuna.execution.executors.allotment import Allotment
from nas_optuna.execution.executors.contract import Budget, Work
from nas_optuna.execution.executors.worker import Ended, Message, Ready, Said, Told
from nas_optuna.execution.loop import Outcome
from nas_optuna.study import lease

logger = logging.getLogger(__name__)

MOST_DEATHS = 3
"""A worker that dies so often without having finished a trial is not started again: the next would die, too."""


@dataclass
class Hand:
    """One worker, as its executor knows it.

    Attributes:
        number: Its number, from 1.
        name: For a person, with its process or its node.
        owner: What its trials are marked with, once it has said so.
        trial: Name of the trial that it runs.
        deaths: How often it has died since it finished a trial.
        ended: Whether it has said its last word.
    """

    number: int
    name: str
    owner: str | None = None
    trial: str | None = None
    deaths: int = 0
    ended: bool = False


class Crew:
    """Takes what the workers say, and what is known of their deaths.

    Args:
        work: What is to be done.
        budget: How much of it.
        told: Told what every worker does.
        stopped: Whether an objective or a callback has called ``study.stop()``.

    Attributes:
        allotment: Who may begin a trial.
        resumed: Numbers of the trials that the workers found abandoned.
        error: What ended the run, if something did.
    """

    def __init__(self, work: Work, budget: Budget, told: Callback, stopped: Callable[[], bool]) -> None:
        self.allotment = Allotment(budget)
        self.resumed: tuple[int, ...] = ()
        self.error: NasOptunaError | None = None
        self._study = work.study
        self._told = told
        self._stopped = stopped
        self._said: set[str] = set()

    def hear(self, hand: Hand, message: Message) -> None:
        """Take notice of what a worker says."""
        if isinstance(message, Ready):
            hand.owner = message.owner
        elif isinstance(message, Said):
            self._say_once(message.level, message.line)
        elif isinstance(message, Told):
            self._tell(hand, message)
        else:
            self._end(hand, message)

    def outcome(self, interrupted: bool) -> Outcome:
        """What all workers did, together.

        Raises:
            NasOptunaError: What ended the run.
        """
        if self.error is not None:
            raise self.error
        return Outcome(self.allotment.finished, interrupted, self.resumed)

    def lose(self, hand: Hand, how: str, *, wanted: bool) -> bool:
        """Put back what a worker ran that has died.

        Args:
            hand: The worker.
            how: How it ended, e.g. ``"was killed by SIGKILL"``.
            wanted: Whether it was asked to end.

        Returns:
            Whether it should be started again.
        """
        self.allotment.drop(hand.number)
        lost = hand.trial
        if hand.owner is not None and not hand.ended:
            lease.release_those_of(self._study, hand.owner)
        hand.owner, hand.trial = None, None
        if wanted or hand.ended or self.error is not None:
            return False
        hand.deaths += 1
        where = f" in {lost}" if lost else ""
        if hand.deaths >= MOST_DEATHS:
            self.error = StudyError(
                f"{hand.name} {how}{where}, {MOST_DEATHS} times without finishing a trial; is memory short? Fewer"
                " workers need less: --workers N"
            )
            return False
        again = self.allotment.is_open
        logger.warning("%s %s%s%s", hand.name, how, where, "; it is started again" if again else "")
        return again

    def _tell(self, hand: Hand, message: Told) -> None:
        subject = replace(message.subject, study=self._study)
        hand.trial = None if message.event == "trial_finished" else subject.name
        if message.event == "trial_finished":
            hand.deaths = 0
            self.allotment.finish(hand.number)
        getattr(self._told, message.event)(subject, *message.more)
        if self._stopped():
            self.allotment.close()

    def _end(self, hand: Hand, message: Ended) -> None:
        hand.ended = True
        self.allotment.drop(hand.number)
        if message.outcome is not None:
            self.resumed += message.outcome.resumed
        if message.error is not None and self.error is None:
            self.error = message.error

    def _say_once(self, level: int, line: str) -> None:
        """What all workers find, such as a trial of another host, is said by one of them."""
        if line not in self._said:
            self._said.add(line)
            logger.log(level, "%s", line)
