import pytest
import torch

from nas_optuna.devices import device_name, list_devices, resolve_device, use_threads
from nas_optuna.errors import DeviceError


def test_auto_prefers_cuda_then_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device().type == "cuda"
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="choose auto, cpu, cuda:0, cuda:1, mps:0"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cpu:1", "meta"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=r"unknown device|not on this machine"):
        resolve_device(name)


@pytest.mark.parametrize(("platform", "meant"), [("linux", "cuda"), ("win32", "cuda"), ("darwin", "mps")])
def test_who_wants_a_gpu_is_told_its_name(monkeypatch: pytest.MonkeyPatch, platform: str, meant: str) -> None:
    monkeypatch.setattr("sys.platform", platform)
    for name in ("gpu", "GPU:0"):
        with pytest.raises(DeviceError, match=f"did you mean '{meant}'"):
            resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_an_absent_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="device 'cuda' is not on this machine; choose auto, cpu"):
        resolve_device("cuda")


def test_the_cpu_is_always_listed_with_its_memory() -> None:
    cpu = list_devices()[-1]
    assert (cpu.device, cpu.index) == ("cpu", None)
    assert cpu.name == device_name(torch.device("cpu")) != ""
    assert cpu.memory_bytes > 1 << 28
    assert all(resolve_device(device.device) for device in list_devices())


def test_the_threads_of_a_clusters_large_node_may_be_asked_for_on_a_small_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    use_threads(192)
    assert used == [192]
    with pytest.raises(DeviceError, match="threads are more than this machine can use"):
        use_threads(9999)
