from __future__ import annotations

import errno
import math
import re

import pytest
import torch
from safetensors.torch import save_file

from errata import delta
from errata.errors import StatisticsError, StoreError
from errata.statistics import Accumulator, KeyStatistics, triangle


def keys(count: int = 60, inner: int = 7, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, inner, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def gathered(*batches: torch.Tensor, inner: int = 7) -> KeyStatistics:
    accumulator = Accumulator(inner)
    for batch in batches:
        accumulator.add(batch)
    return accumulator.result({"weights": "3f9c"})


def test_the_moment_is_the_mean_outer_product_however_the_keys_are_batched() -> None:
    sample = keys()
    dense = torch.einsum("ti,tj->ij", sample, sample) / 60
    for size in (1, 7, 60):
        statistics = gathered(*sample.split(size))
        torch.testing.assert_close(statistics.moment, dense, rtol=1e-13, atol=1e-13)
        assert statistics.count == 60


def test_the_moment_is_right_and_symmetric_over_several_strips_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("errata.statistics._STRIP", 3)
    monkeypatch.setattr("errata.statistics._TOKENS", 11)
    sample = keys()
    moment = gathered(sample).moment
    torch.testing.assert_close(moment, sample.T @ sample / 60, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(moment, moment.T, rtol=1e-15, atol=1e-16)


def test_sums_are_float64_whatever_the_keys() -> None:
    sample = torch.full((4096, 1), 1.0 + 2**-12, dtype=torch.float32)
    moment = gathered(*sample.split(1), inner=1).moment
    product = (sample[0] * sample[0]).double()  # rounded once, in float32
    assert moment.dtype == torch.float64
    assert moment.item() == product.item()
    assert gathered(keys(dtype=torch.bfloat16)).moment.dtype == torch.float64


def test_more_may_be_added_after_a_result() -> None:
    sample, accumulator = keys(), Accumulator(7)
    accumulator.add(sample[:20])
    before = accumulator.result()
    kept = before.moment.clone()
    accumulator.add(sample[20:])
    torch.testing.assert_close(accumulator.result().moment, gathered(sample[:20], sample[20:]).moment)
    assert torch.equal(before.moment, kept)


def test_the_sum_of_two_samples_is_the_statistics_of_both() -> None:
    sample = keys()
    parts = gathered(sample[:10], sample[10:24]) + gathered(sample[24:40], sample[40:])
    whole = gathered(sample[:10], sample[10:24], sample[24:40], sample[40:])
    torch.testing.assert_close(parts.moment, whole.moment, rtol=1e-13, atol=1e-13)
    assert parts.count == whole.count
    assert math.isclose(parts.convergence, whole.convergence, rel_tol=1e-12)
    assert parts.origin == {"weights": "3f9c"}


def test_convergence_estimates_the_difference_between_the_halves() -> None:
    sample, inner = keys(4000, 40), 40
    batches = sample.split(100)
    odd, even = torch.cat(batches[::2]), torch.cat(batches[1::2])
    whole = sample.T @ sample / 4000
    exact = (odd.T @ odd / 2000 - even.T @ even / 2000).norm() / whole.norm()
    assert math.isclose(gathered(*batches, inner=inner).convergence, float(exact), rel_tol=0.25)


def test_convergence_falls_with_the_root_of_the_sample() -> None:
    few, many = (gathered(*keys(n, 20).split(10), inner=20).convergence for n in (200, 20000))
    assert 5 < few / many < 20


def test_convergence_of_one_batch_or_of_a_bare_matrix_is_unknown() -> None:
    assert math.isnan(gathered(keys()).convergence)
    assert math.isnan(KeyStatistics(torch.eye(3)).convergence)
    assert gathered(keys(), keys()).convergence == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_statistics_come_back_as_they_were(tmp_path, dtype: torch.dtype) -> None:
    statistics = gathered(keys(), keys(seed=1)).to(dtype)
    statistics.save(tmp_path / "layer3.safetensors")
    back = KeyStatistics.load(tmp_path / "layer3.safetensors")
    assert torch.equal(back.moment, statistics.moment)
    assert back.moment.dtype == dtype
    assert (back.count, back.convergence, back.origin) == (120, statistics.convergence, {"weights": "3f9c"})


def test_a_bare_matrix_is_read_from_any_safetensors_file(tmp_path) -> None:
    matrix = gathered(keys()).moment.float()
    save_file({"layer2": matrix}, tmp_path / "one")
    save_file({"layer2": matrix, "layer3": 2 * matrix}, tmp_path / "two")
    assert torch.equal(KeyStatistics.load(tmp_path / "one").moment, matrix)
    assert torch.equal(KeyStatistics.load(tmp_path / "two", "layer3").moment, 2 * matrix)
    with pytest.raises(StatisticsError, match=re.escape("['layer2', 'layer3'], expected one matrix")):
        KeyStatistics.load(tmp_path / "two")


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (torch.ones(2, 3), r"shape \[2, 3\], expected \[inner, inner\]"),
        (torch.ones(3), r"shape \[3\], expected"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "differs from its transpose by 2 "),
        (torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), "NaN or infinity"),
        (torch.tensor([[math.inf]]), "NaN or infinity"),
        (torch.eye(2, dtype=torch.bfloat16), "bfloat16, expected float32 or float64"),
    ],
)
def test_what_is_no_moment_is_refused(moment: torch.Tensor, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        KeyStatistics(moment)


def test_statistics_of_another_width_are_refused() -> None:
    statistics = gathered(keys())
    assert statistics.expect(7) is statistics
    with pytest.raises(StatisticsError, match="keys 7 wide, expected 8"):
        statistics.expect(8)
    with pytest.raises(StatisticsError, match="60 keys 7 wide with 5 keys 3 wide"):
        statistics + gathered(keys(5, 3), inner=3)


def test_bad_batches_are_refused_and_leave_nothing_behind() -> None:
    accumulator = Accumulator(7)
    with pytest.raises(StatisticsError, match=r"shape \[5, 6\], expected \[token, 7\]"):
        accumulator.add(keys(5, 6))
    with pytest.raises(StatisticsError, match="NaN or infinity"):
        accumulator.add(torch.full((2, 7), math.nan))
    with pytest.raises(StatisticsError, match="corpus is empty"):
        accumulator.result()


def test_a_full_disk_leaves_the_old_file_whole_and_nothing_else(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "layer3.safetensors"
    gathered(keys()).save(path)
    before = path.read_bytes()

    def full(tensors, filename, metadata) -> None:
        with open(filename, "wb") as file:
            file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(delta, "save_file", full)
    with pytest.raises(StoreError, match=r"layer3\.safetensors: could not be written .*No space left"):
        gathered(keys(seed=1)).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_an_error_with_its_path(tmp_path) -> None:
    path = tmp_path / "layer3.safetensors"
    gathered(keys()).save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"layer3\.safetensors: could not be read"):
        KeyStatistics.load(path)


@pytest.mark.parametrize("inner", [1, 5, 300, 1100])
def test_what_an_accumulator_keeps_is_as_large_as_it_is_reckoned(inner: int) -> None:
    strips = Accumulator(inner)._strips.values()
    assert triangle(inner) == sum(strip.numel() for strip in strips) >= inner * (inner + 1) // 2
