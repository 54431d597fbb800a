"""The training loop: it learns, resumes exactly, survives bad values, and stops when told to."""

import logging
import time

import pytest
import torch
from toy_training import CAPTIONS, toy_loader, toy_trainer

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.engine.trainer import TrainerOptions, do_train, targets_on_device
from maskrcnn_benchmark.engine.training.guarded_step import LossNotFinite
from maskrcnn_benchmark.engine.training.validation import Validation
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.solver import WeightDecaySchedule
from maskrcnn_benchmark.solver.loss_scale import LossScaler
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.weight_files import read_checkpoint


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_learns_and_saves_the_end(tmp_path, caplog):
    caplog.set_level(logging.INFO, "maskrcnn_benchmark.trainer")
    trainer = toy_trainer(tmp_path, 120, learning_rate=0.02)
    assert trainer.train()
    assert trainer.progress.meters.loss.avg < 0.2, "it starts at 0.5"
    assert (tmp_path / "model_final.pth").is_file() and (tmp_path / "last_checkpoint").is_file()
    line = next(record.message for record in caplog.records if "iter: 120" in record.message)
    for word in ("eta: 0:00:00", "loss: ", "loss_reg: ", "lr: ", "wd: ", "max mem: 0", "images/s: "):
        assert word in line


def test_a_list_of_batches_and_a_checkpointer_that_only_saves(tmp_path):
    saved = []

    class Keeper:
        def save(self, name, **entries):
            saved.append((name, sorted(entries)))

    trainer, arguments = toy_trainer(tmp_path, 3), {"iteration": 0}
    batches = list(trainer.data_loader)
    run = (trainer.model, batches, trainer.optimizer, trainer.scheduler, Keeper(), "cpu", 2, arguments)
    assert do_train(default_config(), *run, None, None, False)
    entries = ["iteration", "random_state", "scaler"]
    assert saved == [("model_0000002", entries), ("model_final", entries)] and arguments == {"iteration": 3}


def test_model_gets_captions_and_maps(tmp_path):
    trainer = toy_trainer(tmp_path, 1)
    trainer.train()
    assert trainer.model.seen == [(list(CAPTIONS), (2, 256), (2, 256))]


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"amp_dtype": torch.bfloat16}])
def test_resume_equals_no_stop(tmp_path, options):
    whole = toy_trainer(tmp_path / "whole", 20, **options)
    whole.train()

    toy_trainer(tmp_path / "parts", 20, checkpoint_period=7, **options).train()
    (tmp_path / "parts" / "last_checkpoint").write_text("model_0000007.pth")
    rest = toy_trainer(tmp_path / "parts", 20, resume=True, **options)
    assert rest.iteration == 7
    rest.train()

    assert_equal_weights(weights(whole), weights(rest))
    if whole.ema is not None:
        assert_equal_weights(whole.ema.state_dict(), rest.ema.state_dict())
    one, other = (read_checkpoint(tmp_path / part / "model_final.pth") for part in ("whole", "parts"))
    assert one["scheduler"] == other["scheduler"] and one["iteration"] == other["iteration"] == 20
    assert torch.equal(one["random_state"][0]["torch"], other["random_state"][0]["torch"])
    assert list(whole.progress.meters.loss.deque)[-10:] == list(rest.progress.meters.loss.deque)[-10:]


def test_resume_with_workers_equals_resume_without(tmp_path):
    alone = toy_trainer(tmp_path / "a", 6)
    alone.train()
    helped = toy_trainer(tmp_path / "b", 6, loader=toy_loader(6, workers=2))
    helped.train()
    assert_equal_weights(weights(alone), weights(helped))


def test_finished_run_does_nothing(tmp_path):
    toy_trainer(tmp_path, 3).train()
    again = toy_trainer(tmp_path, 3, resume=True)
    before = weights(again)
    assert again.train()
    assert again.model.calls == 0
    assert_equal_weights(before, weights(again))


def test_deadline_saves_and_a_second_run_goes_on(tmp_path, caplog):
    (tmp_path / "training_report.json").write_text("of an earlier training")
    trainer = toy_trainer(tmp_path, 10, deadline=time.monotonic())
    with caplog.at_level(logging.INFO):
        assert not trainer.train()
    assert "iter: 1  loss: " in caplog.text, "what has gathered since the last report is told"
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not (tmp_path / "training_report.json").exists()
    rest = toy_trainer(tmp_path, 10, resume=True)
    assert rest.train() and rest.model.calls == 9
    assert (tmp_path / "training_report.json").exists()
    whole = toy_trainer(tmp_path / "whole", 10)
    whole.train()
    assert_equal_weights(weights(whole), weights(rest))


@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize("amp_dtype", [None, torch.float16])
@pytest.mark.filterwarnings("error:Detected call of .lr_scheduler.step")
def test_bad_loss_leaves_the_weights_alone(tmp_path, caplog, kind, amp_dtype):
    before = weights(toy_trainer(tmp_path, 1))
    trainer = toy_trainer(tmp_path, 1, bad_steps=(1,), kind=kind, amp_dtype=amp_dtype, max_bad_losses=1)
    with caplog.at_level(logging.INFO):
        trainer.train()
    assert_equal_weights(before, weights(trainer))
    assert trainer.monitor.skipped == 1
    assert "step skipped 1 times, last at iteration 1 (loss_reg " + kind in caplog.text


def test_a_scale_that_is_too_high_at_first_is_no_error(tmp_path, caplog):
    trainer = toy_trainer(tmp_path, 10, amp_dtype=torch.float16)
    trainer.step.scaler = LossScaler("cpu", init_scale=2.0**40)
    with caplog.at_level(logging.INFO):
        trainer.train()
    assert trainer.monitor.skipped == 10 and "step skipped 5 times" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_training_goes_on_after_a_bad_loss(tmp_path):
    trainer = toy_trainer(tmp_path, 60, bad_steps=(3, 4), learning_rate=0.02, max_bad_losses=2)
    assert trainer.train()
    assert trainer.monitor.skipped == 2
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
    assert trainer.progress.meters.loss.avg < 0.5


def test_gives_up_after_too_many_bad_losses(tmp_path, caplog):
    trainer = toy_trainer(tmp_path, 20, bad_steps=tuple(range(4, 21)), max_skipped_in_a_row=5, max_bad_losses=99)
    with pytest.raises(LossNotFinite, match="giving up after 7 in a row") as error:
        trainer.train()
    assert caplog.messages[-1] == f"Training ended at iteration {trainer.iteration} of 20: {error.value}"
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


@pytest.mark.parametrize("amp_dtype", [None, torch.float16])
def test_bad_loss_stops_and_leaves_what_explains_it(tmp_path, amp_dtype, device):
    options = {"amp_dtype": amp_dtype, "device": device.type}
    trainer = toy_trainer(tmp_path, 20, bad_steps=(2, 4), max_bad_losses=1, **options)
    with pytest.raises(LossNotFinite) as error:
        trainer.train()
    message = str(error.value)
    path = tmp_path / "bad_batch_0000004_rank0.pth"
    assert message.startswith("iteration 4, process 0: loss not finite (loss_reg nan, loss_centerness 0.")
    assert trainer.model.calls == (4 if device.type == "cpu" else 5), "a GPU is a step ahead of who looks at it"
    assert f"pictures item 6, item 7, batch saved in {path}; stopped after 2" in message and "\n" not in message
    saved = read_checkpoint(path)
    assert saved["dataset_indices"] == [6, 7] and saved["images"].shape == (2, 3, 16, 16)
    assert saved["captions"] == list(CAPTIONS) and len(saved["boxes"]) == 2 and saved["iteration"] == 4
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_batches_with_too_few_boxes_are_left_out(tmp_path, caplog):
    trainer = toy_trainer(tmp_path, 4, empty=(2, 4, 5), max_negative_share=0.1)
    trainer.train()
    assert trainer.model.calls == 2 and trainer.iteration == 4
    assert "Iteration 2: 1 of 2 pictures have no boxes" in caplog.text
    trainer = toy_trainer(tmp_path, 4, empty=(2, 4, 5), max_negative_share=1.0)
    trainer.train()
    assert trainer.model.calls == 3, "a batch without any box is always left out"


def test_weight_decay_drops_by_the_steps_of_the_rate(tmp_path):
    """A batch left out counts for neither of them."""
    trainer = toy_trainer(tmp_path, 4, empty=(2,), checkpoint_period=1)
    trainer.weight_decay_schedule = WeightDecaySchedule(trainer.optimizer, [6], ratio=0.5, gamma=0.1)
    trainer.train()
    saved = [read_checkpoint(tmp_path / f"model_{name}.pth") for name in ("0000002", "0000003", "final")]
    assert [one["scheduler"]["last_epoch"] for one in saved] == [1, 2, 3]
    assert [one["optimizer"]["param_groups"][0]["weight_decay"] for one in saved] == pytest.approx([0.01, 0.01, 0.001])


def test_last_batch_left_out_still_ends_the_run(tmp_path):
    trainer = toy_trainer(tmp_path, 4, empty=(6, 7))
    assert trainer.train() and (tmp_path / "model_final.pth").is_file()


def test_validation_is_stored_and_changes_nothing(tmp_path):
    plain = toy_trainer(tmp_path / "plain", 4)
    plain.train()
    measured = toy_trainer(tmp_path / "measured", 4, checkpoint_period=2)
    modes = []

    def evaluate(model) -> dict[str, float]:
        modes.append(model.training)
        torch.rand(5)
        return {"AP": 0.25}

    measured.validation = Validation(evaluate)
    measured.train()
    assert modes == [False, False]
    assert read_checkpoint(tmp_path / "measured" / "model_final.pth")["eval_result"] == 0.25
    assert_equal_weights(weights(plain), weights(measured))


def test_loader_that_ends_early_is_an_error(tmp_path):
    trainer = toy_trainer(tmp_path, 3)
    trainer.max_iter = 5
    with pytest.raises(RuntimeError, match="ended after iteration 3; its length promises 5"):
        trainer.train()


def test_checkpoint_period_must_be_positive():
    with pytest.raises(ValueError, match="SOLVER.CHECKPOINT_PERIOD"):
        TrainerOptions(checkpoint_period=0)


@pytest.mark.parametrize(
    ("read", "passed"),
    [(None, {"labels", "caption", "positive_map", "greenlight_map", "dataset_index"}), (("labels",), {"labels"})],
)
def test_a_model_gets_the_fields_that_it_reads_and_otherwise_all(tmp_path, read, passed):
    trainer, seen = toy_trainer(tmp_path, 1), []
    if read is not None:
        trainer.model.training_fields = read
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[1]))
    captions = trainer.model.seen
    trainer.train()
    assert [set(target.fields()) for target in seen] == [passed] * 2 and captions[0][0] == list(CAPTIONS)


def test_targets_on_device_keep_their_parts():
    targets = []
    for count in (2, 0, 1):
        target = BoxList(torch.rand(count, 4), (10, 10))
        target.add_field("labels", torch.arange(count))
        target.add_field("positive_map_for_od_labels", torch.full((256,), float(count)), per_box=False)
        target.add_field("tokens_positive", [[(0, 1)]] * count)
        target.add_field("unread", torch.zeros(count))
        targets.append(target)
    whole = targets_on_device(targets, torch.device("cpu"))
    assert [target.fields() for target in whole] == [target.fields() for target in targets]
    read = GeneralizedVLRCNN.training_fields
    for target, moved in zip(targets, targets_on_device(targets, torch.device("cpu"), read), strict=True):
        assert torch.equal(target.bbox, moved.bbox) and moved.size == target.size
        assert torch.equal(target.get_field("labels"), moved.get_field("labels"))
        assert moved.get_field("positive_map_for_od_labels")[0] == len(target)
        assert moved.get_field("tokens_positive") == target.get_field("tokens_positive")
        assert "unread" not in moved.fields()


@pytest.mark.gpu
@pytest.mark.parametrize("amp_dtype", [None, torch.float16, torch.bfloat16])
def test_cuda_learns_resumes_and_skips_bad_steps(tmp_path, amp_dtype):
    options = {"device": "cuda", "amp_dtype": amp_dtype, "ema_decay": 0.9, "learning_rate": 0.02, "bad_steps": (3,)}
    options["max_bad_losses"] = 1
    trainer = toy_trainer(tmp_path, 60, checkpoint_period=40, **options)
    trainer.train()
    assert trainer.monitor.skipped >= 1 and trainer.progress.meters.loss.deque[-1] < 0.4
    (tmp_path / "last_checkpoint").write_text("model_0000040.pth")
    rest = toy_trainer(tmp_path, 60, resume=True, **{**options, "bad_steps": ()})
    rest.train()
    for name, value in weights(trainer).items():
        torch.testing.assert_close(value, weights(rest)[name], atol=1e-4, rtol=1e-3)
