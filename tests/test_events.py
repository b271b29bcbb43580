"""TensorBoard's event files of jobs: read back as TensorBoard reads them."""

import subprocess
import sys

import numpy as np
import pytest

from selftrans.runtime.events import picture, scalars, tiled, write_event_file
from tests.support import HEAVY
from tests.support.events import pictures, values


def test_files_of_several_steps_are_one_curve_in_any_order_of_writing(tmp_path):
    for step in (800, 100, 12_000):
        write_event_file(tmp_path, "a", step, scalars({"set/fid": step / 8, "set/is": 2.0}))
    assert values(tmp_path, "set/fid") == {100: 12.5, 800: 100.0, 12_000: 1500.0}
    assert list(values(tmp_path, "set/is")) == [100, 800, 12_000]


def test_a_job_that_is_made_again_replaces_its_own_file(tmp_path):
    for fid in (9.0, 7.0):
        write_event_file(tmp_path, "a", 4, scalars({"set/fid": fid}))
        write_event_file(tmp_path, "b", 4, scalars({"other/fid": 1.0}))
    assert len(list(tmp_path.iterdir())) == 2
    assert values(tmp_path, "set/fid") == {4: 7.0}
    assert values(tmp_path, "other/fid") == {4: 1.0}


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    write_event_file(tmp_path, "a", 1, scalars({"a": float("nan"), "b": float("inf"), "c": 1.0}))
    assert [values(tmp_path, tag) for tag in "abc"] == [{}, {}, {1: 1.0}]


def test_a_picture_has_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_event_file(tmp_path, "a", 30, [picture("set/samples", pixels)])
    ((step, found),) = pictures(tmp_path, "set/samples").items()
    assert step == 30
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize(("count", "shape"), [(1, (2, 6)), (3, (2, 6)), (7, (6, 6))])
def test_images_are_tiled_row_by_row(count, shape):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    grid = tiled(images, columns=3)
    assert grid.shape == (*shape, 3)
    cells = [grid[2 * (i // 3), 2 * (i % 3), 0] for i in range(shape[0] // 2 * 3)]
    assert cells == [*range(count), *[255] * (len(cells) - count)]
    assert (grid[:2, :2] == 0).all()


@pytest.mark.slow
def test_writing_needs_neither_torch_nor_tensorflow(tmp_path):
    code = (
        "import sys, numpy, pathlib; from selftrans.runtime.events import *;"
        "write_event_file(pathlib.Path(sys.argv[1]), 'a', 1,"
        " [*scalars({'a': 1.0}), picture('b', numpy.zeros((2, 2, 3), numpy.uint8))]);"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert not {*ended.stdout.split()} & {*HEAVY, "tensorflow"}
    assert values(tmp_path, "a") == {1: 1.0}
