"""What SFT and DPO share: batch arithmetic, the order of rows, checkpoints, dtypes, and keywords that still
exist."""

import dataclasses
import inspect
import math
from pathlib import Path

import pytest
import tiny_models
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from phoenix_utils import batches, training
from phoenix_utils.dpo import DpoSettings
from phoenix_utils.errors import PhoenixError
from phoenix_utils.hardware import DtypeChoice, Gpu, Hardware
from phoenix_utils.sft import SftSettings

FLOAT32, BFLOAT16 = DtypeChoice("float32", ""), DtypeChoice("bfloat16", "")
CPU = Hardware(2, 8.0)


@given(st.integers(1, 600), st.integers(1, 64), st.integers(1, 8))
def test_the_global_batch_is_reached_exactly_or_refused(global_batch, per_device, devices):
    if global_batch % devices:
        with pytest.raises(PhoenixError, match=f"make it a multiple of {devices}"):
            batches.plan_batches(global_batch, per_device, devices)
        return
    plan = batches.plan_batches(global_batch, per_device, devices)
    assert plan.per_device * plan.accumulation * plan.devices == global_batch == plan.global_batch
    assert 1 <= plan.per_device <= per_device


def test_the_batches_and_steps_of_the_paper_come_out():
    assert batches.plan_batches(512, 8, devices=8) == batches.BatchPlan(8, 8, 8)
    assert batches.plan_steps(116_736, 512, 1.0) == 228
    assert batches.plan_steps(60_224, 64, 1.0) == 941


def test_one_process_with_several_gpus_is_told_what_to_do(monkeypatch):
    two = Hardware(8, 64.0, (Gpu("A", 80.0, (8, 0)),) * 2)
    with pytest.raises(PhoenixError, match="CUDA_VISIBLE_DEVICES"):
        batches.device_count(two)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert batches.device_count(two) == 2


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 16), st.integers(0, 5))
def test_every_row_comes_once_in_batches_ordered_by_length(lengths, global_batch, epoch):
    sampler = batches.GlobalBatchSampler(lengths, global_batch, seed=7)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths))) and len(sampler) == len(lengths)
    for start in range(0, len(order), global_batch):
        batch = [lengths[row] for row in order[start : start + global_batch]]
        assert batch == sorted(batch, reverse=True)
    assert order == list(sampler)


def test_the_order_depends_on_seed_and_epoch():
    lengths = list(range(40))
    orders = set()
    for seed in (1, 2):
        for epoch in (0, 1):
            sampler = batches.GlobalBatchSampler(lengths, 8, seed)
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 4


def test_lengths_are_read_from_rows_and_from_pairs():
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3], [4]], "labels": [[1, 2, 3], [4]]})
    assert batches.row_lengths(rows) == [3, 1]
    pairs = Dataset.from_dict(
        {"prompt_ids": [[1], [1, 2]], "chosen_ids": [[1, 2, 3], [4]], "rejected_ids": [[1], [4, 5]]}
    )
    assert batches.row_lengths(pairs) == [4, 4]


def test_float16_is_for_cuda_only():
    with pytest.raises(PhoenixError, match="float16 does not train on cpu"):
        training.resolve_dtype("float16", CPU)
    t4 = Hardware(2, 12.0, (Gpu("T4", 15.0, (7, 5)),))
    assert training.resolve_dtype("float16", t4).name == "float16"
    assert training.resolve_dtype("auto", t4).name == "float16"


def test_full_fine_tuning_keeps_float32_masters():
    assert training.weights_dtype("full", "bfloat16", "cuda") == "float32"
    assert training.weights_dtype("qlora", "float16", "cuda") == "float16"
    assert training.weights_dtype("lora", "bfloat16", "cpu") == "float32"


def test_lora_goes_on_every_linear_layer_but_the_head():
    model = tiny_models.tiny_llama(300)
    assert training.lora_target_modules(model) == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    assert isinstance(model.get_output_embeddings(), torch.nn.Linear)


def test_trainable_weights_are_float32_unless_bfloat16_is_native():
    def adapted():
        model = tiny_models.tiny_llama(300)
        model = get_peft_model(model, training.lora_config(model, lora_r=2, lora_alpha=4, lora_dropout=0.0))
        return model.to(torch.bfloat16)  # as TRL leaves the adapters of a quantised model

    model = adapted()
    training.keep_trainable_float32(model, DtypeChoice("float16", "a T4"))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    model = adapted()
    training.keep_trainable_float32(model, BFLOAT16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_rounding_frozen_layers_changes_no_bit_of_a_step():
    found = {}
    for rounded in (False, True):
        model = tiny_models.tiny_llama(300)
        model = get_peft_model(model, training.lora_config(model, lora_r=2, lora_alpha=4, lora_dropout=0.0))
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if rounded:
            training.round_frozen(model, BFLOAT16, CPU)
        ids = torch.arange(24).reshape(2, 12) + 7
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        found[rounded] = loss, [p.grad for p in model.parameters() if p.requires_grad]
        kinds = {p.dtype for name, p in model.named_parameters() if "base_layer" in name}
        assert kinds == {torch.bfloat16 if rounded else torch.float32}
    assert torch.equal(found[True][0], found[False][0])
    assert all(torch.equal(*pair) for pair in zip(found[True][1], found[False][1], strict=True))
    model = tiny_models.tiny_llama(300)
    training.round_frozen(model.requires_grad_(False), FLOAT32, CPU)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=40))
def test_a_loss_diverges_only_well_above_its_start(losses):
    trouble = training.diverges(losses)
    start, now = (sum(part[:8]) / 8 for part in (losses, losses[-8:]))
    assert (trouble is not None) == (len(losses) >= 16 and now > 1.5 * start)
    assert training.diverges([*losses, math.inf]).endswith("became inf")


def test_the_log_forgives_a_line_that_was_cut_off(tmp_path):
    (tmp_path / training.LOG).write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 2, "rewards/margins": 0.5}\n{"step": 3, "lo'
    )
    assert [row["step"] for row in training.read_log(tmp_path)] == [1, 2]
    assert training.read_curve(tmp_path) == [(1, 2.0)]
    assert training.read_curve(tmp_path, "rewards/margins") == [(2, 0.5)]
    assert training.read_log(tmp_path / "nowhere") == []


def test_quiet_is_over_when_it_ends(monkeypatch):
    import datasets
    import transformers

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    before = transformers.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    with training.quiet():
        assert not datasets.is_progress_bar_enabled()
    assert (transformers.logging.get_verbosity(), datasets.is_progress_bar_enabled()) == before


def test_trl_sends_no_telemetry(monkeypatch):
    from huggingface_hub.utils import _telemetry

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: pytest.fail("telemetry was about to be sent"))
    with training.quiet():
        _telemetry.send_telemetry("trl/SFTTrainer")


# TRL and transformers rename keywords (a known way for tutorials to rot): each that is passed must still
# exist.


def _keywords(settings, module, tmp_path):
    class Notes:
        folder = tmp_path

        def note(self, key, value):
            pass

    return module.trainer_keywords(settings, Notes(), FLOAT32, CPU)


def test_every_keyword_of_the_trainers_exists(tmp_path):
    from trl import DPOConfig, SFTConfig

    import phoenix_utils.dpo.stage as dpo_stage
    import phoenix_utils.sft.stage as sft_stage

    for config, module, settings in (
        (SFTConfig, sft_stage, SftSettings()),
        (DPOConfig, dpo_stage, DpoSettings()),
    ):
        passed = _keywords(settings, module, tmp_path)
        fields = {field.name: field for field in dataclasses.fields(config)}
        assert set(passed) <= set(fields), set(passed) - set(fields)
        config(**passed)


def test_settings_are_spelled_as_trl_and_peft_spell_them():
    from transformers import EarlyStoppingCallback
    from trl import DPOConfig, SFTConfig

    ours = {
        "method",
        "global_batch",
        "dtype",
        "run_dir",
        "redo",
        "model",
        "language",
        "source_language",
        "eval_share",
        "chat_template",
        "max_pairs",
        "watch_prompts",
    }
    ours |= set(inspect.signature(EarlyStoppingCallback).parameters)
    lora = {"lora_r", "lora_alpha", "lora_dropout"}
    for settings, config in ((SftSettings, SFTConfig), (DpoSettings, DPOConfig)):
        known = {field.name for field in dataclasses.fields(config)}
        assert set(settings.model_fields) - ours - lora <= known
    assert {"r", "lora_alpha", "lora_dropout", "bias", "task_type", "target_modules"} <= {
        field.name for field in dataclasses.fields(LoraConfig)
    }


def test_the_defaults_that_we_rely_on_still_hold():
    from transformers import BitsAndBytesConfig, TrainingArguments
    from trl import DPOConfig, DPOTrainer, SFTConfig

    fields = {field.name: field for field in dataclasses.fields(SFTConfig)}
    assert fields["packing_strategy"].default == "bfd"
    assert fields["gradient_checkpointing"].default is True  # why the settings name it
    assert {f.name: f.default for f in dataclasses.fields(DPOConfig)}["disable_dropout"] is True
    assert {f.name: f.default for f in dataclasses.fields(TrainingArguments)}["push_to_hub"] is False
    assert "ref" in inspect.getsource(DPOTrainer.__init__).split("elif is_peft_model(model)")[1][:3000]
    assert {"bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype"} <= set(
        inspect.signature(BitsAndBytesConfig.__init__).parameters
    )


def test_what_is_called_in_accelerate_peft_and_transformers_takes_these_names():
    from accelerate import Accelerator, PartialState
    from accelerate.utils import broadcast_object_list
    from peft import PeftModel
    from transformers import EarlyStoppingCallback, PreTrainedModel
    from transformers.integrations import TensorBoardCallback

    for function, names in (
        (PeftModel.save_pretrained, {"selected_adapters", "save_embedding_layers"}),
        (PreTrainedModel.save_pretrained, {"state_dict"}),
        (Accelerator.get_state_dict, {"model"}),
        (PartialState.wait_for_everyone, {"self"}),
        (broadcast_object_list, {"object_list"}),
        (EarlyStoppingCallback.__init__, {"early_stopping_patience"}),
        (TensorBoardCallback.__init__, {"tb_writer"}),
        (PeftModel.from_pretrained, {"is_trainable"}),
    ):
        assert names <= set(inspect.signature(function).parameters), function
    # PEFT reads a gathered state dict from its keywords.
    assert 'state_dict=kwargs.get("state_dict"' in inspect.getsource(PeftModel.save_pretrained)


def test_the_loss_that_we_rely_on_is_still_the_default():
    from trl import SFTConfig

    defaults = {field.name: field.default for field in dataclasses.fields(SFTConfig)}
    assert defaults["loss_type"] == "nll"
    assert defaults["average_tokens_across_devices"] is True  # tokens weigh the same on all devices
    assert (defaults["label_smoothing_factor"], defaults["shuffle_dataset"]) == (0.0, False)
    assert (defaults["adam_beta1"], defaults["adam_beta2"], defaults["adam_epsilon"]) == (0.9, 0.999, 1e-8)
    assert str(defaults["optim"]).startswith(("adamw_torch", "OptimizerNames.ADAMW_TORCH"))


@pytest.mark.parametrize("name", ["ddp", "fsdp", "zero3"])
def test_accelerate_reads_the_shipped_configurations(name):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import FullyShardedDataParallelPlugin

    path = Path(__file__).resolve().parent.parent / "profiles" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))  # an unknown key is an error
    kinds = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero3": "DEEPSPEED"}
    assert (str(config.distributed_type.value), config.num_processes) == (kinds[name], 8)
    known = {field.name for field in dataclasses.fields(FullyShardedDataParallelPlugin)}
    wanted = {key.removeprefix("fsdp_") for key in config.fsdp_config or {}}
    assert wanted <= known | {"version", "offload_params"}  # two that accelerate renames on the way


def test_steps_are_rounded_as_the_trainer_rounds_them():
    assert batches.plan_steps(20, 8, 2.0) == 6
    assert batches.plan_steps(20, 8, 0.5) == math.ceil(1.5)
