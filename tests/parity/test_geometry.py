"""Picture sizes against Wan2.2 and Ovi."""

from __future__ import annotations

from unitalk_core.geometry import fit_area, snap_area

from .goldens import Case, cases


@cases("geometry")
def test_sizes_equal_the_references(case: Case) -> None:
    tables = dict(case.data)
    area, step = case.config["wan_expected_area"], case.config["wan_dw"]
    assert case.config["wan_dh"] == step
    for row in tables.pop("wan_best_output_size"):
        assert [*fit_area(row["w"], row["h"], area, step)] == row["out_w_h"], row
    for row in tables.pop("ovi_snap_hw"):
        width, height = snap_area(row["w"], row["h"], row["area"])
        assert [height, width] == row["out_h_w"], row
    assert not tables, f"no test for {sorted(tables)}"
