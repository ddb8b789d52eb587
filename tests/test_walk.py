"""One walk, two back ends: after every group the same values are alive in both, kept alike and as large."""

import inspect

import pytest
import torch
from networks import KINDS
from test_by_rows import sparing
from test_cost import Composed

from streamline.cost.ledger import Ledger, State
from streamline.families.networks import network_of
from streamline.program.groups import group_stages
from streamline.program.rows import Rows
from streamline.program.tensors import Tensors
from streamline.program.walk import Backend, walk


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_what_is_counted_is_what_is_alive(kind, seed):
    composed = Composed(KINDS[kind](seed))
    network, table = composed.case.network, composed.table(composed.batch)

    def execute(values, conditions):
        run = Tensors(values, conditions, lambda: None)
        alive = {name: State(0, table.values[name].is_packed, False) for name in values}
        for group in group_stages(table.program, sparing(seed).denoiser):
            walk(group, run)
            walk(group, ledger := Ledger(table, alive))
            alive = ledger.values
            assert alive.keys() == run.values.keys()
            for name, value in run.values.items():
                assert isinstance(value, Rows) == (alive[name].pieces is not None)
                if isinstance(value, torch.Tensor) and alive[name].owned:
                    assert alive[name].nbytes == value.nbytes
        return run.values[table.program.output]

    with torch.no_grad():
        result = composed.case.read(network_of(network).forward(network, execute, **composed.case.arguments))
    expected = composed.case.original()
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("end", [Tensors, Ledger])
def test_a_back_end_does_all_that_a_walk_asks_for(end):
    for name, method in inspect.getmembers(Backend, inspect.isfunction):
        if not name.startswith("_"):
            asked = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(end, name)).parameters) == asked
