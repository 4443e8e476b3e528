"""Text of users inside our Markdown, checked by a parser of Markdown that was not written here."""

import random

import pytest
from markdown_it import MarkdownIt

from nas_optuna.markdown import code, plain, table
from nas_optuna.spaces import create_space

PARSER = MarkdownIt("commonmark").enable("table")
HOSTILE = [
    "a|b",
    "`",
    "``x`",
    "*b*",
    "[red](http://x)",
    "<script>",
    "\\",
    "# h",
    "a\nb",
    "|`|",
    "&lt;",
    "~~x~~",
    "",
]


def _text(markdown: str) -> str:
    """What a reader would see, with the tags of what is no plain text or code."""
    (inline,) = [token for token in PARSER.parse(markdown) if token.type == "inline"]
    assert {child.type for child in inline.children or ()} <= {"text", "code_inline", "text_special"}
    return "".join(child.content for child in inline.children or ())


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_it_is(text: str) -> None:
    shown = " ".join(text.split())
    assert _text(f"x{plain(text)}x") == f"x{shown}x"
    assert _text(f"x {code(text)} x") == f"x {shown or ' '} x"


def test_no_text_ends_the_cell_of_a_table() -> None:
    html = PARSER.render(table(["name", *HOSTILE], [["row", *HOSTILE]]))
    assert html.count("<th") - html.count("<thead") == html.count("<td") == 1 + len(HOSTILE)
    html = PARSER.render(f"| a | b |\n|---|---|\n| {code('x|y`', in_table=True)} | end |")
    assert "<code>x|y`</code>" in html
    assert "<td>end</td>" in html
    assert "None" not in table(["epochs"], [[None]])


def test_a_long_architecture_may_break_and_is_still_one() -> None:
    space = create_space("residual", {}, in_channels=1, classes=10, input_size=8)
    architecture = space.sample(random.Random(0))
    cell = table(["architecture"], [[architecture]]).splitlines()[-1]
    assert max(map(len, cell.split())) < 40 < len(str(architecture))
    assert space.parse(_text(cell.strip("| "))) == architecture
    assert "cat,dog" in table(["class"], [["cat,dog"]])
    for name in ("kernel_size", "Width", "größe", "3x3"):
        assert f"a=1, {plain(name)}=2" in table(["architecture"], [[f"a=1,{name}=2"]])


def test_what_utf_8_cannot_hold_is_written_out() -> None:
    assert plain("\ud800").encode() == rb"\\ud800"


@pytest.mark.parametrize("sign", ["\x1b", "\u202e", "\u2066", "\x7f", "\U000e0001", "\x07", "\ufeff"])
def test_what_a_terminal_or_a_page_would_obey_is_left_out(sign: str) -> None:
    assert plain(f"a{sign}b") == code(f"a{sign}b").strip("`") == "a\N{REPLACEMENT CHARACTER}b"
