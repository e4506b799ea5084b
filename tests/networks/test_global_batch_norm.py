"""Batch norm over all workers against torch's batch norm on the whole batch."""

import copy

import pytest
import torch
from torch import nn

from raydd.networks import global_batch_norm
from raydd.networks.global_batch_norm import GlobalBatchNorm2d
from tests.support import tiny
from tests.support.tiny import Results, randn

SIZE = 7


def layer(momentum: float = 0.3) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(3, eps=1e-3, momentum=momentum).double()
    with torch.no_grad():
        made.weight.copy_(randn(1, 3))
        made.bias.copy_(randn(2, 3))
    return made


def steps(split: list[int] | None, rank: int = 0) -> Results:
    """Two batches through a layer between two others, or this worker's rows of them; everything that comes out."""
    network = nn.Sequential(nn.Conv2d(3, 3, 1), layer(), nn.Tanh()).double()
    for parameter, seed in zip(network[0].parameters(), (3, 4), strict=True):
        nn.init.zeros_(parameter).data += randn(seed, *parameter.shape)
    rows = slice(SIZE)
    if split is not None:
        global_batch_norm.convert(network)
        first = sum(split[:rank])
        rows = slice(first, first + split[rank])
    results: Results = {}
    for number in range(2):
        images = (5 + 2 * randn(5 + number, SIZE, 3, 4, 5))[rows].requires_grad_()
        output = network(images)
        (output * randn(8 + number, SIZE, 3, 4, 5)[rows]).sum().backward()
        assert images.grad is not None
        results |= {f"output {number}": output.detach(), f"by images {number}": images.grad}
    results |= {f"by {name}": parameter.grad for name, parameter in network.named_parameters()}
    return results | {f"buffer {name}": buffer for name, buffer in network.named_buffers()}


def worker(split: list[int]) -> Results:
    return steps(split, torch.distributed.get_rank())


@pytest.mark.parametrize("split", [[7], [3, 4], [7, 0], [2, 4, 1], [0, 6, 1]], ids=str)
def test_output_gradients_and_statistics_are_those_of_the_whole_batch(split: list[int]) -> None:
    wanted, workers = steps(None), tiny.on_workers(len(split), worker, split)
    for name, tensor in wanted.items():
        found = [results[name] for results in workers]
        if name.startswith("buffer"):
            assert all(torch.equal(one, found[0]) for one in found)
            together = found[0]
        elif name[-1].isdigit():
            assert [len(one) for one in found] == split
            together = torch.cat(found)
        else:
            together = torch.stack(found).sum(0)
        torch.testing.assert_close(together, tensor, rtol=1e-10, atol=1e-11, msg=name)
    assert wanted["buffer 1.num_batches_tracked"] == 2


def far_from_zero() -> Results:
    images = (1000 + randn(0, 6, 2, 8, 8)).float()
    share = images.tensor_split(2)[torch.distributed.get_rank()]
    network = nn.Sequential(nn.BatchNorm2d(2))
    global_batch_norm.convert(network)
    return {"output": network(share).detach()}


def test_large_means_do_not_swallow_the_variance() -> None:
    images = 1000 + randn(0, 6, 2, 8, 8)
    found = torch.cat([results["output"] for results in tiny.on_workers(2, far_from_zero)])
    mean, var = images.mean((0, 2, 3), keepdim=True), images.var((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(found.double(), (images - mean) / (var + 1e-5).sqrt(), rtol=0, atol=1e-3)


def test_a_converted_network_holds_the_same() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(layer(), nn.ReLU()), nn.GroupNorm(3, 3)).double()
    plain, parameters = copy.deepcopy(network), list(network.parameters())
    global_batch_norm.convert(network)
    assert isinstance(network[1][0], GlobalBatchNorm2d) and not isinstance(plain[1][0], GlobalBatchNorm2d)
    assert all(now is before for now, before in zip(network.parameters(), parameters, strict=True))
    assert list(network.state_dict()) == list(plain.state_dict())
    images = randn(0, 4, 3, 2, 2)
    for mode in (True, False):
        assert torch.equal(network.train(mode)(images), plain.train(mode)(images))
    plain.load_state_dict(network.state_dict())
    network.load_state_dict(plain.state_dict())
    converted = network[1][0]
    global_batch_norm.convert(network)
    assert network[1][0] is converted


def in_evaluation() -> Results:
    network = nn.Sequential(layer()).eval()
    global_batch_norm.convert(network)
    output = network(randn(torch.distributed.get_rank(), 2, 3, 2, 2)).detach()
    torch.distributed.barrier()
    return {"output": output}


def test_in_evaluation_workers_are_on_their_own() -> None:
    for rank, found in enumerate(tiny.on_workers(2, in_evaluation)):
        assert torch.equal(found["output"], layer().eval()(randn(rank, 2, 3, 2, 2)).detach())
