"""List a net: each layer with its shapes, parameters, cost and phases, and whether it learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prototxt.errors import PrototxtError, ShapeError
from prototxt.schema.filter import filter_net, is_included, unmet_stages
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.schema.params import param_count
from prototxt.shapes import LAYER_TYPES, UNKNOWN, Shape, is_known, text as shape_text
from prototxt.shapes.costs import FLOAT_BYTES, Cost, layer_costs, net_cost, peak_activations
from prototxt.shapes.net import infer_partly
from prototxt.summary.layer_summary import summary
from prototxt.text.fold_notes import some_names

PHASES = ("TRAIN", "TEST")
LEARNS, FROZEN, PARTLY, MOVES, NOTHING = "learns", "frozen", "partly frozen", "statistics move", ""


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer. Shapes are those of TEST if the layer is in both phases; None and UNKNOWN are unknown.

    index       its position in the upgraded net of all phases
    phases      the listed phases that have it
    params      shapes of its parameters and statistics
    state       LEARNS, FROZEN, PARTLY, MOVES (BatchNorm in training) or NOTHING
    shared      names of parameters that it shares with others
    known       whether its type is known; if not, its shapes and parameters are not either
    detail      its main parameters, in a few words
    """

    index: int
    name: str
    type: str
    phases: tuple[str, ...]
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    bottom_shapes: tuple[Shape, ...]
    top_shapes: tuple[Shape, ...]
    params: tuple[Shape, ...]
    cost: Cost
    state: str
    shared: tuple[str, ...]
    known: bool
    detail: str

    @property
    def in_place(self) -> bool:
        """Return whether all its tops are bottoms."""
        return bool(self.tops) and set(self.tops) <= set(self.bottoms)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the known values of one phase; `complete` is whether all values are known.

    peak  peak number of blob elements if each blob is freed after its last use; None if unknown
    """

    layers: int
    macs: int
    params: int
    frozen: int
    statistics: int
    activations: int
    peak: int | None
    complete: bool


@dataclass(frozen=True)
class NetListing:
    """A net's rows and sums, and the problems found."""

    name: str
    rows: tuple[LayerRow, ...]
    totals: Mapping[str, Totals]
    problems: tuple[str, ...] = field(default=())


def list_net(
    net: NetParameter,
    phase: str | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    *,
    level: int = 0,
    stages: Iterable[str] = (),
) -> NetListing:
    """List an upgraded net of all phases; mistakes go to `problems`, and all other parts are listed.

    phase   list the layers of this phase only, by default of both
    inputs  shapes of blobs by name, or by "" for the net's first

    Raises: ShapeError if a shape is given for a blob that the net lacks.
    """
    stages = list(stages)
    given = _given(net, dict(inputs or {}))
    rows: dict[int, LayerRow] = {}
    totals: dict[str, Totals] = {}
    problems: dict[str, None] = {}
    for name in (phase,) if phase else PHASES:
        try:
            kept = filter_net(net, name, level, stages)
        except PrototxtError as error:
            problems[str(error)] = None
            continue
        if (unmet := unmet_stages(net, kept)) is not None:
            problems[str(unmet)] = None
        indices = [index for index, layer in enumerate(net.layer) if is_included(layer, kept.state)]
        present = {top for layer in kept.layer for top in layer.top}
        known = {blob: shape for blob, shape in given.items() if blob in present}
        shapes, errors = infer_partly(kept, _with_labels(kept, known))
        problems.update(dict.fromkeys(str(error) for error in errors))
        costs = layer_costs(kept, shapes)
        found: list[LayerRow] = []
        for position, index in enumerate(indices):
            before = rows[index].phases if index in rows else ()
            layer, cost = kept.layer[position], costs[position]
            ends = (tuple(shapes.bottoms[position]), tuple(shapes.tops[position]))
            found.append(_row(index, layer, (*before, name), ends, tuple(shapes.params[position]), cost))
        rows.update((row.index, row) for row in found)
        totals[name] = _totals(found, net_cost(kept, shapes), peak_activations(kept, shapes))
    ordered = tuple(rows[index] for index in sorted(rows))
    problems.update(dict.fromkeys([*_unknown_types(ordered), *_unknown_inputs(ordered)]))
    if phase is None and len({row.phases for row in ordered}) <= 1 and len(totals) == len(PHASES):
        totals = {"": totals[PHASES[-1]]}
    return NetListing(net.name, ordered, totals, tuple(problems))


def _given(net: NetParameter, inputs: dict[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    tops = [top for layer in net.layer for top in layer.top]
    if "" in inputs and tops:
        inputs[tops[0]] = inputs.pop("")
    strange = [blob for blob in inputs if blob not in tops]
    if strange:
        sources = [top for layer in net.layer if not layer.bottom for top in layer.top]
        hint = f"its inputs are {', '.join(dict.fromkeys(sources)) or 'unknown'}"
        raise ShapeError(f"a shape is given for {', '.join(map(repr, strange))}, which the net lacks", hint=hint)
    return inputs


def _with_labels(net: NetParameter, given: dict[str, Sequence[int]]) -> dict[str, Sequence[int | None]]:
    """Return the given shapes, and those of the other tops of their data layers, with the same batch size."""
    found: dict[str, Sequence[int | None]] = dict(given)
    sources = [layer for layer in net.layer if not layer.bottom and any(top in given for top in layer.top)]
    if all(top in given for layer in sources for top in layer.top):
        return found
    shapes = infer_partly(net)[0].blobs
    for layer in sources:
        batch = next(given[top][0] for top in layer.top if top in given)
        for top in layer.top:
            if top not in given and shapes[top] is not UNKNOWN and shapes[top]:
                found[top] = (batch, *shapes[top][1:])
    return found


def _row(
    index: int,
    layer: LayerParameter,
    phases: tuple[str, ...],
    ends: tuple[tuple[Shape, ...], tuple[Shape, ...]],
    params: tuple[Shape, ...],
    cost: Cost,
) -> LayerRow:
    return LayerRow(
        index=index,
        name=layer.name,
        type=layer.type,
        phases=phases,
        bottoms=tuple(layer.bottom),
        tops=tuple(layer.top),
        bottom_shapes=ends[0],
        top_shapes=ends[1],
        params=params,
        cost=cost,
        state=learning_state(layer, len(params) or param_count(layer.type, layer)),
        shared=tuple(param.name for param in layer.param if param.name),
        known=layer.type in LAYER_TYPES,
        detail=summary(layer),
    )


def learning_state(layer: LayerParameter, count: int | None) -> str:
    """Return whether training changes the `count` blobs of a layer; None: their number is unknown."""
    if layer.type == "Onnx":
        return FROZEN if layer.onnx_param.frozen else LEARNS
    size = len(layer.param) if count is None else count
    rates = [layer.param[i].lr_mult if i < len(layer.param) else 1.0 for i in range(size)]
    if layer.type == "BatchNorm":
        rates = rates[3:]
        if not any(rates):
            return FROZEN if layer.batch_norm_param.use_global_stats else MOVES
    if not rates:
        return NOTHING
    if any(rates):
        return LEARNS if all(rates) else PARTLY
    return FROZEN


def _totals(rows: Sequence[LayerRow], whole: Cost, peak: int | None) -> Totals:
    costs = [row.cost for row in rows]
    complete = all(row.known for row in rows) and None not in (whole.macs, whole.params, whole.activations)
    return Totals(
        layers=len(rows),
        macs=sum(cost.macs or 0 for cost in costs),
        params=sum(cost.params or 0 for cost in costs) if whole.params is None else whole.params,
        frozen=sum(row.cost.params or 0 for row in rows if row.state == FROZEN),
        statistics=sum(cost.statistics or 0 for cost in costs),
        activations=sum(cost.activations or 0 for cost in costs),
        peak=peak,
        complete=complete,
    )


def _unknown_types(rows: Sequence[LayerRow]) -> list[str]:
    types: dict[str, list[str]] = {}
    for row in rows:
        if not row.known:
            types.setdefault(row.type, []).append(row.name)
    return [
        f"type {kind!r} is not known, so the shapes and parameters of {some_names(names)} are not either"
        for kind, names in types.items()
    ]


def _unknown_inputs(rows: Sequence[LayerRow]) -> list[str]:
    """Return problems for tops of data layers with unknown shapes, because their data is not here."""
    found: dict[str, Shape] = {}
    for row in rows:
        if not row.bottoms and row.known:
            found.update({t: s for t, s in zip(row.tops, row.top_shapes, strict=False) if not is_known(s)})
    return [
        f"the shape of {blob!r} is {shape_text(shape)}; give it with --input-shape {blob}="
        + ("N,C,H,W" if shape is UNKNOWN else ",".join("?" if size is None else str(size) for size in shape))
        for blob, shape in found.items()
    ]


def listing_json(listing: NetListing) -> dict[str, object]:
    """Return the listing as JSON data; unknown sizes are null."""
    return {
        "name": listing.name,
        "layers": [_row_json(row) for row in listing.rows],
        "totals": {
            phase or "both": {
                "layers": total.layers,
                "macs": total.macs,
                "params": total.params,
                "frozen_params": total.frozen,
                "statistics": total.statistics,
                "param_bytes": FLOAT_BYTES * (total.params + total.statistics),
                "blob_bytes": FLOAT_BYTES * total.activations,
                "peak_blob_bytes": None if total.peak is None else FLOAT_BYTES * total.peak,
                "complete": total.complete,
            }
            for phase, total in listing.totals.items()
        },
        "problems": list(listing.problems),
    }


def _row_json(row: LayerRow) -> dict[str, object]:
    return {
        "name": row.name,
        "type": row.type,
        "detail": row.detail,
        "phases": list(row.phases),
        "bottom": list(row.bottoms),
        "top": list(row.tops),
        "top_shapes": [None if shape is UNKNOWN else list(shape) for shape in row.top_shapes],
        "param_shapes": [None if shape is UNKNOWN else list(shape) for shape in row.params],
        "params": row.cost.params if row.known else None,
        "statistics": row.cost.statistics if row.known else None,
        "macs": row.cost.macs if row.known else None,
        "blob_bytes": None if row.cost.activations is None else FLOAT_BYTES * row.cost.activations,
        "state": row.state or None,
        "shared": list(row.shared),
        "shapes_known": all(map(is_known, row.top_shapes)),
    }
