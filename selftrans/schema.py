"""Write the JSON schemas that editors complete and check experiment files by: ``python -m selftrans.schema``."""

from pathlib import Path

from selftrans.config import data_schema, experiment_schema
from selftrans.runtime.files import write_json

if __name__ == "__main__":
    write_json(Path("experiments/schema.json"), experiment_schema())
    write_json(Path("experiments/data/schema.json"), data_schema())
