"""Tables on disk: round trips, shards that are appended to, damage."""

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phoenix_utils.errors import PhoenixError
from phoenix_utils.tables import Shards, read_rows, row_count, write_rows

SCHEMA = pa.schema([("number", pa.int64())])


def numbered(count: int, start: int = 0) -> list[dict]:
    return [{"number": number} for number in range(start, count)]


def test_rows_round_trip_across_batches(tmp_path):
    rows = [{"number": number} for number in range(25)]
    assert write_rows(tmp_path / "rows.parquet", iter(rows), SCHEMA, batch=10) == 25
    assert list(read_rows(tmp_path / "rows.parquet", batch=7)) == rows


def test_a_cut_parquet_file_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    write_rows(path, [{"number": 1}], SCHEMA)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PhoenixError, match=r"rows\.parquet is damaged"):
        list(read_rows(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(total=st.integers(0, 25), stops=st.lists(st.integers(0, 25), max_size=3), size=st.integers(1, 7))
def test_shards_hold_every_row_once_and_in_order_however_often_the_writer_dies(tmp_path_factory, total, stops, size):
    folder = tmp_path_factory.mktemp("shards") / "table"

    def dying(rows, after):
        for place, row in enumerate(rows):
            if place == after:
                raise RuntimeError("killed")
            yield row

    for after in stops:
        shards = Shards(folder, SCHEMA, size)
        try:
            shards.append(dying(numbered(total, shards.rows), after))
        except RuntimeError:
            assert Shards(folder, SCHEMA, size).rows % size == 0
    shards = Shards(folder, SCHEMA, size)
    shards.append(numbered(total, shards.rows))
    assert list(read_rows(folder)) == numbered(total)
    assert row_count(folder) == shards.rows == total
    assert shards.total("number") == sum(range(total))


def test_shards_behind_a_damaged_one_are_written_again(tmp_path):
    Shards(tmp_path, SCHEMA, 10).append(numbered(35))
    cut = tmp_path / "00001.parquet"
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(PhoenixError, match=r"00001\.parquet is damaged"):
        list(read_rows(tmp_path))
    shards = Shards(tmp_path, SCHEMA, 10)
    assert shards.rows == 10 and [path.name for path in tmp_path.iterdir()] == ["00000.parquet"]
    shards.append(numbered(35, shards.rows))
    assert list(read_rows(tmp_path)) == numbered(35)


def test_a_table_without_files_is_missing(tmp_path):
    with pytest.raises(PhoenixError, match="does not exist: run the stage that makes it first"):
        row_count(tmp_path)
