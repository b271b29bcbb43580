"""The notebooks run on any project's results, and are stored as they ran on digits."""

import asyncio
import base64
import copy
import subprocess
import sys

import nbformat
import pytest
import torch
from torch.nn.functional import cosine_similarity

from notebooks.execute import (
    MAX_PICTURE_BYTES,
    execute,
    normalised,
    notebooks,
    read,
    running_kernel,
    with_parameters,
)
from selftrans import api
from selftrans.config import ClassifierConfig
from selftrans.evaluation.compute_statistics import write_statistics
from selftrans.models.classifier import ClassifierMetadata, ClassifierNetwork
from selftrans.runtime.workers import Workers
from tests.support import REPOSITORY
from tests.support.projects import make_project
from tests.support.random_models import randomise
from tests.support.workplace import copy_project

STEP = 4
PARAMETERS = {
    "evaluate-samples": {"EXPERIMENT": "tiny", "RUN": "sit", "COUNT": 100, "SETS": 2},
    "first-steps": {"EXPERIMENT": "tiny", "RUN": "sit", "COUNT": 12},
    "new-method": {"PARENT": "tiny", "STEPS": STEP, "EVERY": 2, "COUNT": 12},
}
METHOD = "mine/token_relations.py"
MAX_BYTES = 400_000
stored = pytest.mark.parametrize("name", PARAMETERS)


@pytest.fixture(scope="module")
def project(tmp_path_factory, manifest, autoencoder, encoder, features):
    """The results of a tiny experiment, with what measures images, and the workflow."""
    folder = make_project(
        tmp_path_factory.mktemp("project"), manifest, autoencoder, encoder, features
    )
    copy_project(folder, "Snakefile", "config.yaml", "profiles", "workflow")
    data = folder / "results/data/digits"
    for name in ("extractors", "reference"):
        (data / name).mkdir()
    settings = ClassifierConfig(width=8, features=6)
    network = randomise(ClassifierNetwork(settings, 10), std=1.0)
    weights = data / "extractors/classifier.safetensors"
    metadata = ClassifierMetadata(settings=settings, num_classes=10, held_out_accuracy=0.1)
    metadata.save(weights, network.state_dict())
    digits, reference = folder / "experiments/data/digits.yaml", data / "reference/classifier.npz"
    write_statistics(digits, "classifier", weights, reference, 256, Workers("cpu"))
    (folder / "notebooks/mine").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def executed(project):
    """Every notebook, executed on the tiny results, in one kernel that forgets between them."""

    async def on_tiny(path, kernel):
        notebook = with_parameters(read(path), PARAMETERS[path.stem])
        notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
        return await execute(notebook, kernel)

    async def all_of_them():
        async with running_kernel(project / "notebooks") as kernel:
            return {path.stem: await on_tiny(path, kernel) for path in notebooks()}

    return asyncio.run(all_of_them())


def code_cells(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def kinds(cell):
    """What a cell shows, but for warnings."""
    shown = [one for one in cell.outputs if one.get("name") != "stderr"]
    return [(one.output_type, *sorted(one.get("data", ()))) for one in shown]


def texts(cell):
    shown = (one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs)
    return "".join(shown)


@pytest.mark.slow
@stored
def test_it_shows_the_same_of_other_results(executed, name):
    tiny, digits = (code_cells(one) for one in (executed[name], read_by_name(name)))
    for number, cell in digits.items():
        assert kinds(cell) == kinds(tiny[number]), number
    assert any(kinds(cell) for cell in digits.values())


def read_by_name(name):
    return read(REPOSITORY / f"notebooks/{name}.ipynb")


@pytest.mark.slow
def test_it_loads_the_run_that_its_parameters_name(executed):
    assert texts(code_cells(executed["first-steps"])["load"]).startswith(
        "run sit, step 4, seed 0, ema weights\n4 blocks of width 32"
    )


@pytest.mark.slow
def test_an_archive_and_a_folder_measure_as_the_images_do(executed, project):
    cells = code_cells(executed["evaluate-samples"])
    run = api.load_run("tiny", "sit", project=project, device="cpu")
    expected = run.metrics(run.sample(count=100, labels="random"), "fid")["fid"]
    _, *rows = texts(cells["measure"]).splitlines()
    assert [row.split()[0] for row in rows] == ["samples.npz", "images/"]
    for row in rows:
        assert float(row.split()[1]) == pytest.approx(expected, rel=1e-3)
    assert texts(cells["refused"]).count("refused: ") == 3


@pytest.mark.slow
def test_the_baselines_curve_is_that_of_its_run(executed, project):
    """Its averaged weights at the end are those of the checkpoint that the trainer wrote."""
    run = api.load_run("tiny", "sit", project=project, device="cpu")
    expected = run.metrics(run.sample(count=12), "fid")["fid"]
    *_, last = texts(code_cells(executed["new-method"])["curve"]).splitlines()
    step, sit, _ = last.split()
    assert (int(step), float(sit)) == (STEP, pytest.approx(expected, abs=6e-3))
    assert expected > 1  # so that two decimals tell weights apart


@pytest.mark.slow
def test_the_new_method_is_its_formula(executed, project, manifest):
    """Mean squared difference of cosines, in loops over samples and pairs of tokens."""
    file = project / "notebooks/mine/relations.yaml"
    experiment = api.load_experiment(file, project=project)
    store = api.LatentStore(manifest)
    model = randomise(api.build_model(experiment, "token-relations", store, 0))
    batch = api.BatchSource(store, experiment.training, seed=0).draw(step=0, positions=range(3))
    tokens = model.backbone.features(batch.x_BCHW, batch.t_B, batch.dropped_condition_B, (2,))[2]
    patches = torch.stack(
        [
            batch.z_BCHW[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
            for row in range(4)
            for column in range(4)
        ],
        dim=1,
    )
    differences = [
        cosine_similarity(x[i], x[j], dim=0) - cosine_similarity(z[i], z[j], dim=0)
        for x, z in zip(tokens.double(), patches.double(), strict=True)
        for i in range(16)
        for j in range(16)
    ]
    loss, _ = model.alignment(batch, {2: tokens})
    expected = 0.5 * torch.stack(differences).square().mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-7)


@stored
def test_it_is_stored_as_it_ran(name):
    path, notebook = REPOSITORY / f"notebooks/{name}.ipynb", read_by_name(name)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells.values()] == [*range(1, len(cells) + 1)]
    assert normalised(copy.deepcopy(notebook)) == notebook
    assert path.stat().st_size < MAX_BYTES
    for cell in cells.values():
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            picture = base64.b64decode(output.get("data", {}).get("image/png", ""))
            assert len(picture) < MAX_PICTURE_BYTES, cell.id


def test_every_notebook_is_tested():
    assert {path.stem for path in notebooks()} == set(PARAMETERS)


@pytest.mark.parametrize("text", ["/work/x", "in /tmp/a.npz", "'/home/me'", "found: /Users/me/x"])
def test_a_path_of_the_machine_is_not_stored(text):
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    cell = nbformat.v4.new_code_cell("", outputs=[output])
    with pytest.raises(ValueError, match=rf"cell {cell.id}: an output holds a path"):
        normalised(nbformat.v4.new_notebook(cells=[cell]))


@pytest.mark.slow
def test_ruff_reads_the_notebooks_and_the_file_that_one_writes(tmp_path):
    def ruff(*words):
        command = [sys.executable, "-m", "ruff", *words]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    listed = ruff("check", "--show-files").stdout
    assert all(f"notebooks/{name}.ipynb" in listed for name in PARAMETERS)
    magic, text = code_cells(read_by_name("new-method"))["method"].source.split("\n", 1)
    assert magic == f"%%writefile {METHOD}"
    file = tmp_path / "token_relations.py"
    file.write_text(f"{text}\n")
    config = ("--config", REPOSITORY / "pyproject.toml")
    for words in (("check", "--ignore", "ANN,D102"), ("format", "--check")):
        ended = ruff(*words, *config, file)
        assert ended.returncode == 0, ended.stdout
