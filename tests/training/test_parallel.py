"""Two ranks learn what one process learns, by DDP and by FSDP2, and tell each other what they must.

(Fifty steps of the whole engine are in `test_ranks`.)
"""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from partimento.config import Train, parse
from partimento.errors import PartimentoError
from partimento.models.decoder import CodeDecoder, DecoderConfig
from partimento.models.loss import code_loss
from partimento.training.ema import copy_into
from partimento.training.fsdp import _own_blocks
from partimento.training.parallel import Parallel

BOOKS, CODES, STEPS, ITEMS = 2, 12, 25, 8
CONFIG = parse({"family": "rvq", "data": {"pack": "none"}, "train": {"device": "cpu"}})
# parallel, micro-batches, precision
RUNS = {
    "ddp": ("ddp", 1, "fp32"),
    "ddp accumulated": ("ddp", 3, "fp32"),
    "fsdp": ("fsdp", 1, "fp32"),
    "fsdp accumulated": ("fsdp", 3, "fp32"),
    "fsdp bf16": ("fsdp", 1, "bf16"),
}


class Objective(nn.Module):
    """The decoder with its loss; items differ in length, so the ranks have very different numbers of tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        shape = {"codebooks": BOOKS, "rows": CODES + 3, "outputs": CODES + 1, "width": 32, "layers": 2, "heads": 2}
        self.decoder = CodeDecoder(DecoderConfig(**shape, max_positions=16))

    def forward(self, grid_BSK):
        targets_BSK = grid_BSK[:, 1:]
        found = code_loss(self.decoder(grid_BSK[:, :-1]), targets_BSK, CODES)
        return found.total, {"tokens": found.count}


def grid(step, micro):
    """[ITEMS, 13, BOOKS]; item i has valid targets in its first 1 + i steps only."""
    generator = torch.Generator().manual_seed(100 * step + micro)
    ids = torch.randint(0, CODES, (ITEMS, 13, BOOKS), generator=generator)
    ids[:, 1::2] = (ids[:, :-1:2] + 1) % CODES  # something to learn
    beyond = torch.arange(13)[None, :] > 1 + torch.arange(ITEMS)[:, None]
    ids[beyond] = CODES + 2
    return ids


def learn(parallel, which):
    """Losses of STEPS steps, and the weights after them (whole, on rank 0)."""
    kind, micros, precision = RUNS[which]
    train = Train(parallel=kind, precision=precision)
    objective = Objective()
    model = parallel.wrap(objective, objective.decoder, train)
    weights = list(objective.decoder.parameters())
    optimizer = torch.optim.AdamW(weights, lr=3e-3, fused=True)
    share = ITEMS // parallel.world
    mine = slice(parallel.rank * share, (parallel.rank + 1) * share)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        sums = torch.zeros(2)
        for micro in range(micros):
            with (
                parallel.accumulating(model, last=micro == micros - 1),
                torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            ):
                total, facts = model(grid(step, micro)[mine])
                total.backward()
            sums += torch.stack([total.detach(), facts["tokens"]])
        loss, tokens = parallel.sum_(sums)
        for weight in weights:
            weight.grad *= parallel.gradient_factor / tokens
        clip_grad_norm_(weights, 0.5)
        optimizer.step()
        losses.append(float(loss / tokens))
    return losses, parallel.gather(dict(objective.decoder.named_parameters()))


class Tied(nn.Module):
    """A weight that two blocks share with the outside, an integer parameter, a buffer, a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.blocks[1].weight = self.blocks[0].weight
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.head.requires_grad_(True)
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.counts = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = x + torch.tanh(block(x)) * self.frozen
        return self.head(x).log_softmax(-1).square().sum(), {"count": self.counts.sum() + self.steps}


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Tied()

    def forward(self, ids):
        return self.inner(ids)


def tied_gradients(parallel, kind):
    objective = Wrapped()
    model = parallel.wrap(objective, objective.inner, Train(parallel=kind))
    ids = torch.arange(8)[:, None] % 7
    share = 8 // parallel.world
    total, _ = model(ids[parallel.rank * share : (parallel.rank + 1) * share])
    total.backward()
    named = {name: weight.grad for name, weight in objective.inner.named_parameters() if weight.grad is not None}
    found = parallel.gather(named)
    return found and {name: (value * parallel.gradient_factor).flatten().tolist() for name, value in found.items()}


def refused(action, *arguments):
    try:
        action(*arguments)
    except PartimentoError as err:
        return f"{err.code} {err.message}"
    return None


def talk(parallel):
    """What one rank hears of the other."""
    rank, said = parallel.rank, {}
    said["place"] = [parallel.rank, parallel.world, parallel.main, str(parallel.device)]
    said["sum"] = parallel.sum_(torch.tensor([1.0 + rank, 10.0])).tolist()
    said["agree"] = [parallel.agree(flag) for flag in (rank, 5 - rank, 0)]
    said["share"] = [parallel.share({"héllo": [rank, None, 1.5]}), parallel.share("" if rank else None)]
    parallel.barrier()
    same = {"a": torch.arange(6.0), "empty": torch.empty(0), "half": torch.ones(3, dtype=torch.bfloat16)}
    said["same"] = refused(parallel.check_equal, same)
    said["other"] = refused(parallel.check_equal, {**same, "b": torch.tensor(1.0 + 1e-7 * rank)})
    said["names"] = refused(parallel.check_equal, {**same, f"only {rank}": torch.zeros(1)})
    return said


def reshard(parallel):
    """Whole tensors into sharded ones and back; weights whose first dimension is not a multiple of the ranks too."""
    torch.manual_seed(2)
    objective = nn.Module()
    objective.inner = nn.Linear(5, 3)
    parallel.wrap(objective, objective.inner, Train(parallel="fsdp"))
    named = dict(objective.inner.named_parameters())
    assert all(isinstance(weight, DTensor) for weight in named.values())
    source = {"weight": torch.arange(15.0).view(3, 5), "bias": torch.arange(3.0)}
    copy_into(named, source)
    held = [weight.to_local().numel() for weight in named.values()]
    whole = parallel.gather(named)
    return {"held": held, "equal": whole and all(torch.equal(whole[name], source[name]) for name in source)}


def drift(parallel):
    """Weights that were drawn from another seed on rank 1."""
    torch.manual_seed(parallel.rank)
    objective = nn.Module()
    objective.inner = nn.Linear(3, 3)
    return refused(parallel.wrap, objective, objective.inner, Train())


def scalar(parallel):
    objective = nn.Module()
    objective.inner = nn.Module()
    objective.inner.gate = nn.Parameter(torch.zeros(()))
    return refused(parallel.wrap, objective, objective.inner, Train(parallel="fsdp"))


def rank_main(rank, port, folder):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update(
        {name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    told = {}
    with Parallel.join(CONFIG) as parallel:
        told["talk"], told["reshard"] = talk(parallel), reshard(parallel)
        told["drift"], told["scalar"] = drift(parallel), scalar(parallel)
        told["tied"] = {kind: tied_gradients(parallel, kind) for kind in ("ddp", "fsdp")}
        for which in RUNS:
            losses, weights = learn(parallel, which)
            told[which] = [losses, weights and {name: weight.flatten().tolist() for name, weight in weights.items()}]
    assert not torch.distributed.is_initialized()
    try:
        with Parallel.join(CONFIG) as parallel:
            if parallel.rank == 1:
                raise ValueError("rank 1 has its own trouble")
            parallel.barrier()
    except (ValueError, PartimentoError) as err:
        told["end"] = str(err)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(told))


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What both ranks told; one start of two processes for all tests."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank_main, (free_port(), str(folder)), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return Parallel.join(CONFIG)


@pytest.mark.parametrize("which", [which for which in RUNS if "bf16" not in which])
def test_two_ranks_learn_what_one_process_learns(told, alone, which):
    losses, weights = learn(alone, which)
    assert losses[-1] < losses[0] - 0.1
    for rank in range(2):
        assert told[rank][which][0] == pytest.approx(losses, abs=1e-5)
    assert told[1][which][1] is None
    for name, weight in weights.items():
        assert torch.allclose(torch.tensor(told[0][which][1][name]), weight.flatten(), atol=2e-4), name


def test_bf16_blocks_that_are_gathered_as_bf16_learn_the_same_to_its_rounding(told, alone):
    losses, _ = learn(alone, "fsdp bf16")
    assert told[0]["fsdp bf16"][0] == pytest.approx(losses, abs=0.02)
    assert told[0]["fsdp bf16"][0] != told[0]["fsdp"][0]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_shared_and_frozen_weights_and_integers(told, alone, kind):
    wanted = tied_gradients(alone, kind)
    assert told[1]["tied"][kind] is None and told[0]["tied"][kind].keys() == wanted.keys()
    for name, value in wanted.items():
        assert told[0]["tied"][kind][name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    assert "frozen" not in wanted and "counts" not in wanted


def test_blocks_that_share_a_weight_belong_to_the_root():
    tied = Tied()
    assert _own_blocks(tied) == [tied.blocks[2]]
    decoder = Objective().decoder
    assert _own_blocks(decoder) == list(decoder.blocks)


def test_what_ranks_tell_each_other(told):
    for rank in range(2):
        said = told[rank]["talk"]
        assert said["place"] == [rank, 2, rank == 0, "cpu"]
        assert said["sum"] == [3, 20] and said["agree"] == [1, 5, 0]
        assert said["share"] == [{"héllo": [0, None, 1.5]}, None]
        assert said["same"] is None
        assert said["other"].startswith("TRAIN031") and said["other"].endswith(": b")
        assert said["names"].startswith("TRAIN031")


def test_whole_tensors_become_shards_and_whole_again(told):
    assert [told[rank]["reshard"]["held"] for rank in range(2)] == [[10, 2], [5, 1]]
    assert [told[rank]["reshard"]["equal"] for rank in range(2)] == [True, None]


def test_ranks_with_other_weights_do_not_train(told):
    assert all(told[rank]["drift"].startswith("TRAIN031") for rank in range(2))
    assert all(told[rank]["scalar"].startswith("TRAIN035") for rank in range(2))


def test_a_rank_that_fails_does_not_leave_the_other_waiting(told):
    assert told[1]["end"] == "rank 1 has its own trouble"
    assert told[0]["end"].startswith("error[TRAIN038]")


def test_alone_everything_is_as_it_is(alone):
    module = nn.Linear(2, 2)
    assert (alone.rank, alone.world, alone.main, alone.gradient_factor) == (0, 1, True, 1)
    assert alone.wrap(module, module, Train(parallel="fsdp")) is module
    assert alone.agree(3) == 3 and alone.share([1]) == [1] and alone.sum_(torch.ones(2)).tolist() == [1, 1]
    alone.check_equal({"a": torch.ones(1)})
    alone.barrier()
    assert alone.gather({"a": torch.ones(2)})["a"].tolist() == [1, 1]
    alone.leave()
    assert not torch.distributed.is_initialized()
