"""Makes arc.parquet, questions of ours in the form in which the Hugging Face Hub has ARC.

    pip install pyarrow==26.0.1
    python generate_arc.py

pyarrow is what writes the Hub's files. The questions are those of arc.jsonl beside it, one a line.
"""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = pathlib.Path(__file__).parent
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("choices", pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])),
        ("answerKey", pa.string()),
    ]
)

rows = [json.loads(line) for line in (FOLDER / "arc.jsonl").read_text().splitlines()]
pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), FOLDER / "arc.parquet", row_group_size=3)
