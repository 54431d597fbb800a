"""Checkpointer: what is written, what is restored, and when."""

import multiprocessing
import os
import resource
import signal
import time

import pytest
import torch
from torch import nn
from yacs.config import CfgNode

from maskrcnn_benchmark.solver import WarmupMultiStepLR
from maskrcnn_benchmark.solver.optimizer import MergedAdamW, MergedSGD
from maskrcnn_benchmark.utils.checkpoint import Checkpointer, DetectronCheckpointer
from maskrcnn_benchmark.utils.weight_files import CheckpointError


def create_model():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def trained_setup(steps=3):
    """A model with momentum and a moved learning rate."""
    model = create_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()
        scheduler.step()
    return model, optimizer, scheduler


def parameters_equal(first, second):
    return all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("saved_parallel", [False, True])
@pytest.mark.parametrize("loaded_parallel", [False, True])
@pytest.mark.parametrize("how", ["tag", "path"])
def test_round_trip_with_and_without_wrapper(tmp_path, saved_parallel, loaded_parallel, how):
    trained = nn.DataParallel(create_model()) if saved_parallel else create_model()
    fresh = nn.DataParallel(create_model()) if loaded_parallel else create_model()
    Checkpointer(trained, save_dir=tmp_path / "a", save_to_disk=True).save("checkpoint_file")
    file = tmp_path / "a" / "checkpoint_file.pth"
    checkpointer = Checkpointer(fresh, save_dir=str(tmp_path / ("a" if how == "tag" else "b")))
    assert checkpointer.has_checkpoint() == (how == "tag")
    assert checkpointer.get_checkpoint_file() == (str(file) if how == "tag" else "")
    checkpointer.load(None if how == "tag" else file)
    assert parameters_equal(trained, fresh)


def test_resume_restores_optimizer_scheduler_and_extras(tmp_path):
    model, optimizer, scheduler = trained_setup()
    saver = Checkpointer(model, optimizer, scheduler, tmp_path)
    saver.save("model_0000003", iteration=3, eval_result=0.25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000003.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"

    fresh, fresh_optimizer, fresh_scheduler = trained_setup(steps=0)
    extra = Checkpointer(fresh, fresh_optimizer, fresh_scheduler, tmp_path).load("ignored.pth")
    assert extra == {"iteration": 3, "eval_result": 0.25}
    assert parameters_equal(model, fresh)
    assert fresh_optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert fresh_scheduler.last_epoch == 3
    momentum = fresh_optimizer.state[fresh[0].weight]["momentum_buffer"]
    torch.testing.assert_close(momentum, optimizer.state[model[0].weight]["momentum_buffer"], rtol=0, atol=0)


def test_weights_of_another_run_do_not_bring_their_training_state(tmp_path):
    model, optimizer, scheduler = trained_setup()
    Checkpointer(model, optimizer, scheduler, tmp_path / "a").save("model_final", iteration=3)
    fresh, fresh_optimizer, fresh_scheduler = trained_setup(steps=0)
    checkpointer = Checkpointer(fresh, fresh_optimizer, fresh_scheduler, tmp_path / "b")
    assert checkpointer.load(tmp_path / "a" / "model_final.pth") == {}
    assert parameters_equal(model, fresh)
    assert fresh_scheduler.last_epoch == 0 and not fresh_optimizer.state


def test_force_and_skip_optimizer(tmp_path):
    first, second = create_model(), create_model()
    saver = Checkpointer(first, save_dir=tmp_path)
    saver.save("first")
    Checkpointer(second, save_dir=tmp_path).save("second", iteration=9)
    fresh = create_model()
    checkpointer = Checkpointer(fresh, save_dir=tmp_path)
    assert checkpointer.load(tmp_path / "first.pth", force=True) == {}
    assert parameters_equal(fresh, first)
    assert checkpointer.load(tmp_path / "first.pth", skip_optimizer=True) == {}
    assert parameters_equal(fresh, second)


def test_several_schedulers(tmp_path):
    model, optimizer, scheduler = trained_setup()
    other = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    Checkpointer(model, optimizer, [scheduler, other], tmp_path).save("m")
    fresh, fresh_optimizer, fresh_scheduler = trained_setup(steps=0)
    fresh_other = torch.optim.lr_scheduler.StepLR(fresh_optimizer, 5)
    Checkpointer(fresh, fresh_optimizer, [fresh_scheduler, fresh_other], tmp_path).load()
    assert (fresh_scheduler.last_epoch, fresh_other.last_epoch) == (3, 0)


def test_other_entry_for_the_weights(tmp_path):
    model, average, fresh = create_model(), create_model(), create_model()
    Checkpointer(model, save_dir=tmp_path).save("m", model_ema=average.state_dict())
    Checkpointer(fresh).load(tmp_path / "m.pth", keyword="model_ema")
    assert parameters_equal(fresh, average)


def test_nothing_is_written_without_a_folder_or_permission(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Checkpointer(create_model()).save("m")
    Checkpointer(create_model(), save_dir=tmp_path / "run", save_to_disk=False).save("m")
    assert list(tmp_path.iterdir()) == []


def test_without_any_checkpoint_the_model_is_left_alone(tmp_path):
    model = create_model()
    before = [parameter.clone() for parameter in model.parameters()]
    assert Checkpointer(model, save_dir=tmp_path).load() == {}
    assert Checkpointer(model).load("") == {}
    assert all(a.equal(b) for a, b in zip(before, model.parameters(), strict=True))


def test_clear_errors(tmp_path):
    Checkpointer(create_model(), save_dir=tmp_path).save("m")
    with pytest.raises(CheckpointError, match="another architecture"):
        Checkpointer(nn.Linear(5, 5)).load(tmp_path / "m.pth")
    with pytest.raises(FileNotFoundError, match=r"no\.pth"):
        Checkpointer(create_model()).load(tmp_path / "no.pth")
    (tmp_path / "m.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"last_checkpoint names 'm\.pth'.*delete"):
        Checkpointer(create_model(), save_dir=tmp_path).load()


def test_interrupted_save_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    checkpointer = Checkpointer(create_model(), save_dir=tmp_path)
    checkpointer.save("m")
    before = (tmp_path / "m.pth").read_bytes()

    def broken_save(obj, target):
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken_save)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("m")
    assert (tmp_path / "m.pth").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "m.pth"]


def test_full_disk_is_named_and_keeps_the_previous_checkpoint(tmp_path):
    """A limit on the size of files stands for the full disk: the system call fails in the same place."""
    Checkpointer(create_model(), save_dir=tmp_path).save("m")
    large = nn.Linear(512, 512)  # one MiB
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/large\.pth'") as error:
            Checkpointer(large, save_dir=tmp_path).save("large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "m.pth"]
    assert Checkpointer(create_model(), save_dir=tmp_path).get_checkpoint_file() == str(tmp_path / "m.pth")


def _save_forever(folder, ready) -> None:
    torch.set_num_threads(1)
    checkpointer = Checkpointer(nn.Linear(700, 700), save_dir=folder)
    for iteration in range(10**6):
        checkpointer.save(f"model_{iteration % 3}", iteration=iteration)
        ready.set()


def test_a_kill_at_any_moment_leaves_a_usable_checkpoint(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(8):
        ready = context.Event()
        process = context.Process(target=_save_forever, args=(str(tmp_path), ready), daemon=True)
        process.start()
        assert ready.wait(60)
        time.sleep(0.003 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert Checkpointer(nn.Linear(700, 700), save_dir=tmp_path).load()["iteration"] >= 0
    (tmp_path / ".model_1.pth.12345.tmp").write_bytes(b"half")
    (tmp_path / ".own.tmp").write_text("another file")
    Checkpointer(nn.Linear(700, 700), save_dir=tmp_path).save("model_0")
    names = {path.name for path in tmp_path.iterdir()}
    assert {name for name in names if name.startswith(".")} == {".own.tmp"}, "no half files pile up"


def test_names_are_given_to_what_is_on_the_disk(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    Checkpointer(create_model(), save_dir=tmp_path).save("m")
    assert calls == ["fsync", "replace", "fsync"] * 2, "file, name, folder: of the checkpoint, then of the tag"


def test_detectron_checkpointer_reads_tags_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("GLIP_CACHE", str(tmp_path / "cache"))
    trained = create_model()
    Checkpointer(trained, save_dir=tmp_path / "run").save("m")
    Checkpointer(trained, save_dir=tmp_path / "cache").save("glip_large_model")
    catalog = tmp_path / "catalog.py"
    catalog.write_text("class ModelCatalog:\n    get = {'mine': 'glip_large_model'}.__getitem__\n")
    cfg = CfgNode({"PATHS_CATALOG": str(catalog)})
    run = tmp_path / "run"
    for source in (run / "last_checkpoint", run / "m.pth", "glip_large_model", "catalog://mine"):
        fresh = create_model()
        DetectronCheckpointer(cfg, fresh).load(str(source))
        assert parameters_equal(trained, fresh), source


def test_a_damaged_last_checkpoint_leads_to_the_one_before(tmp_path):
    model, optimizer, scheduler = trained_setup()
    saver = Checkpointer(model, optimizer, scheduler, tmp_path)
    for number, name in enumerate(("model_0000003", "model_best", "model_0000006")):
        saver.save(name)
        os.utime(tmp_path / f"{name}.pth", (number, number))
    last = tmp_path / "model_0000006.pth"
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=rf"{last} is truncated.*--resume {tmp_path / 'model_best.pth'}$"):
        saver.load()
    (tmp_path / "elsewhere.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty$"):
        Checkpointer(model, save_dir=tmp_path / "new").load(tmp_path / "elsewhere.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": MergedAdamW}, "has no betas, eps: it is not of the optimizer of this run, AdamW"),
        ({"frozen": "0.weight"}, "of 4 trained parameters, this run trains 3; they differ in 0.weight"),
        ({"names": ("1.bias", "1.weight", "0.bias", "0.weight")}, "this run trains 4; their order differs"),
        (
            {"names": ("0.weight", "0.bias", "1.weight", "new.bias")},
            "this run trains 4; they differ in 1.bias, new.bias",
        ),
    ],
)
def test_a_state_of_another_optimizer_is_refused(tmp_path, change, message):
    def setup(kind=MergedSGD, frozen="", names=()):
        model = create_model()
        groups = [{"params": [one], "name": name} for name, one in model.named_parameters() if name != frozen]
        for group, name in zip(groups, names, strict=False):
            group["name"] = name
        return model, kind(groups, lr=0.1)

    Checkpointer(*setup(), save_dir=tmp_path).save("model_0000003")
    Checkpointer(*setup(), save_dir=tmp_path).load()
    path = tmp_path / "model_0000003.pth"
    with pytest.raises(
        CheckpointError, match=f"cannot go on from {path}: .*{message}.* --resume none MODEL.WEIGHT {path}"
    ):
        Checkpointer(*setup(**change), save_dir=tmp_path).load()


def test_a_schedule_that_is_not_the_configured_one_is_announced(tmp_path, caplog):
    model, optimizer, _ = trained_setup()

    def load(**settings):
        scheduler = WarmupMultiStepLR(optimizer, **{"milestones": [4, 8], "gamma": 0.1, "warmup_iters": 0, **settings})
        checkpointer = Checkpointer(model, optimizer, scheduler, tmp_path)
        if not checkpointer.has_checkpoint():
            checkpointer.save("model_0000003")
        caplog.clear()
        checkpointer.load()
        return scheduler, [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    load()
    assert load()[1] == []
    scheduler, messages = load(milestones=[6, 9], gamma=0.5)
    assert scheduler.milestones == [4, 8] and messages == [
        "The schedule of the checkpoint goes on, not that of this run: "
        "milestones [4, 8] (this run: [6, 9]), gamma 0.1 (this run: 0.5)"
    ]
