"""What a plan needs of a machine, in memory above all, and what this machine lacks for it."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace

from phoenix_utils import hardware, memory
from phoenix_utils.artifacts import data_folder
from phoenix_utils.profile import Plan


def machine_problems(plan: Plan) -> list[str]:
    """What this machine lacks for the plan, each as the end of a sentence that begins with \"it\"."""
    needs, machine = plan.profile.hardware, hardware.describe()
    problems = []
    if needs.device == "cuda":
        fitting = [gpu for gpu in machine.gpus if gpu.memory_gb >= needs.gpu_memory_gb * 0.92]
        if len(fitting) < needs.gpus:
            problems.append(
                f"needs {needs.gpus} GPU(s) with {needs.gpu_memory_gb:g} GB; this machine has "
                f"{len(machine.gpus) or 'no'} GPU(s), {len(fitting)} of them large enough"
            )
    if machine.ram_gb < needs.ram_gb:
        problems.append(f"needs {needs.ram_gb:g} GB of main memory; this machine has {machine.ram_gb:.0f} GB")
    return problems + _memory_problems(plan, machine)


def meant_hardware(plan: Plan, machine: hardware.Hardware) -> hardware.Hardware:
    """The hardware that a plan's memory is judged by: this machine, or the profile's GPUs where it has none."""
    needs = plan.profile.hardware
    if needs.device != "cuda" or machine.gpus:
        return machine
    capability = (7, 5) if needs.gpu == "T4" else (8, 0)
    gpus = (hardware.Gpu(needs.gpu or "GPU", needs.gpu_memory_gb, capability),) * max(1, needs.gpus)
    return replace(machine, gpus=gpus)


def _memory_needed(plan: Plan, machine: hardware.Hardware) -> dict[str, float | None]:
    """Estimated GB on one device for each stage that loads a model; None where the model's size is unknown."""
    devices = plan.profile.hardware.gpus or 1
    return {
        name: memory.estimate_stage_gb(name, plan.settings(name), machine, devices)
        for name in ("translation", "sft", "dpo", "evaluation")
    }


def _memory_problems(plan: Plan, machine: hardware.Hardware) -> list[str]:
    """Training stages whose estimate is more than a device has, each with the setting that would fit."""
    meant = meant_hardware(plan, machine)
    there = min((gpu.memory_gb for gpu in meant.gpus), default=meant.ram_gb)
    problems = []
    for name, needed in _memory_needed(plan, meant).items():
        if name not in plan.stages or name not in ("sft", "dpo") or needed is None or needed <= there:
            continue
        advice = memory.what_would_fit(name, plan.settings(name), meant, there, plan.profile.hardware.gpus or 1)
        problems.append(f"needs about {needed:.1f} GB in {name}, and one device has {there:g} GB: {advice}")
    return problems


def memory_lines(plan: Plan) -> list[str]:
    """Estimated memory of each stage that loads a model, in words; unknown sizes are called unknown."""
    lines = []
    for name, needed in _memory_needed(plan, meant_hardware(plan, hardware.describe())).items():
        model = plan.settings(name).model
        if needed is None:
            lines.append(f"{name}: memory unknown, since {model} does not say how large it is")
            continue
        lines.append(f"{name}: {model}, about {needed:.1f} GB on each device")
    return lines


def launch_commands(plan: Plan, profile: str, overrides: list[str], out: str | None) -> dict[str, str]:
    """The commands that train SFT and DPO on all GPUs of a profile, one process for each; none where it has one.

    `profile`, `overrides` and `out` are those that the plan was made of. Full fine-tuning is cut into shards (FSDP), an
    adapter's training has a whole copy on each GPU.
    """
    gpus = plan.profile.hardware.gpus
    words = [profile, *(word for text in overrides for word in ("--set", text)), *(["--out", out] if out else [])]
    commands = {}
    for stage in ("sft", "dpo") if gpus > 1 else ():
        kind = "fsdp" if plan.settings(stage).method == "full" else "ddp"
        config = os.path.relpath(data_folder("profiles") / "accelerate" / f"{kind}.yaml")
        launch = ["accelerate", "launch", "--config_file", config, "--num_processes", str(gpus)]
        commands[stage] = shlex.join([*launch, "-m", "phoenix_utils.cli", stage, *words])
    return commands
