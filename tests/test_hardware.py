"""The dtype for more than a dozen devices, and sizes read from names."""

import subprocess
import sys

import pytest
from safetensors.torch import save_file

from phoenix_utils import hardware
from phoenix_utils.errors import PhoenixError
from phoenix_utils.hardware import (
    Gpu,
    Hardware,
    choose_dtype,
    choose_training_dtype,
    known_parameters,
    native_bf16,
)


def with_gpus(*capabilities):
    return Hardware(8, 32.0, tuple(Gpu(f"card {c}", 16.0, c) for c in capabilities))


@pytest.mark.parametrize(
    ("device", "capability", "dtype"),
    [
        ("GTX 1080", (6, 1), "float32"),
        ("P100", (6, 0), "float16"),
        ("V100", (7, 0), "float16"),
        ("T4", (7, 5), "float16"),
        ("RTX 2080 Ti", (7, 5), "float16"),
        ("A100", (8, 0), "bfloat16"),
        ("RTX 3090", (8, 6), "bfloat16"),
        ("RTX 4090", (8, 9), "bfloat16"),
        ("L4", (8, 9), "bfloat16"),
        ("H100", (9, 0), "bfloat16"),
        ("A10", (8, 6), "bfloat16"),
        ("AMD Instinct MI300X", (9, 4), "bfloat16"),
        ("B200", (10, 0), "bfloat16"),
        ("RTX 5090", (12, 0), "bfloat16"),
    ],
)
def test_each_gpu_gets_the_type_that_it_computes_natively(device, capability, dtype):
    machine = Hardware(8, 32.0, (Gpu(device, 16.0, capability),))
    choice = choose_dtype(machine)
    assert choice == choose_training_dtype(machine) and choice.name == dtype
    assert device in choice.reason and ".".join(map(str, capability)) in choice.reason


def test_without_cuda_everything_is_float32_for_a_reason():
    assert choose_dtype(Hardware(2, 8.0)) == choose_dtype(Hardware(64, 512.0))
    assert choose_dtype(Hardware(2, 8.0)).name == "float32"
    assert choose_training_dtype(Hardware(2, 8.0)).name == "float32"
    native = Hardware(2, 8.0, cpu_bf16=native_bf16({"avx2", "avx512_bf16"}))
    assert choose_training_dtype(native).name == "bfloat16" and choose_dtype(native).name == "float32"
    assert not native_bf16({"avx2", "avx512f"})
    t4 = Hardware(2, 8.0, (Gpu("T4", 16.0, (7, 5)),), cpu_bf16=True)
    assert choose_training_dtype(t4) == choose_dtype(t4)
    apple = choose_dtype(Hardware(8, 16.0, mps=True))
    assert apple.name == "float32" and "Apple" in apple.reason


def test_the_weakest_of_several_gpus_decides():
    assert choose_dtype(with_gpus((8, 0), (7, 5))).name == "float16"


def test_this_machine_is_described():
    machine = hardware.describe()
    assert machine.cores >= 1 and machine.ram_gb > 0.5
    assert machine.device in ("cpu", "cuda", "mps")


def test_describing_needs_no_torch():
    code = "import sys; from phoenix_utils import hardware; hardware.describe(); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


LISTING = "Tesla T4, 15360, 7.5\nNVIDIA A100-SXM4-80GB, 81920, 8.0\n"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["Tesla T4", "NVIDIA A100-SXM4-80GB"]),
        ("1", ["NVIDIA A100-SXM4-80GB"]),
        ("1,0", ["NVIDIA A100-SXM4-80GB", "Tesla T4"]),
        ("", []),
        ("-1", []),
    ],
)
def test_the_listing_of_nvidia_smi_is_read(visible, names):
    gpus = hardware.visible_gpus(LISTING, visible)
    assert [gpu.name for gpu in gpus] == names
    if names and names[0] == "Tesla T4":
        assert gpus[0] == Gpu("Tesla T4", 15.0, (7, 5))


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("LeoLM/leo-mistral-hessianai-7b", 7.0),
        ("haoranxu/ALMA-13B", 13.0),
        ("Qwen/Qwen3-1.7B-Base", 1.7),
        ("embedded:gemma-3-270m", 0.27),
        ("mistralai/Mixtral-8x7B-v0.1", 56.0),
        ("openai-community/gpt2", None),
        ("someone/robbie-3beta", None),
    ],
)
def test_the_size_is_read_from_the_name(name, billions):
    assert known_parameters(name) == billions


def test_the_size_of_a_local_model_is_counted(tmp_path):
    import torch

    save_file({"a": torch.zeros(1000, 30), "b": torch.zeros(7)}, tmp_path / "model.safetensors")
    assert known_parameters(str(tmp_path)) == pytest.approx(30_007 / 1e9)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"{]", b"\x02" + bytes(7) + b"[]"])
def test_a_damaged_local_model_is_one_sentence(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(PhoenixError, match="model.safetensors cannot be read"):
        known_parameters(str(tmp_path))
