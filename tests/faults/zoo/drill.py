"""Release every animal of the zoo, and judge: each bad one has to be stopped, each good one released."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from pipeline.charts import GREEN, GREY, RUST
from pipeline.data.records import atomic_write
from pipeline.params import Params
from tests.faults.scorecard import Outcome, Promise
from tests.faults.zoo.changed_package import Original
from tests.faults.zoo.enclosure import enclosure
from tests.faults.zoo.habitat import Habitat, make_habitat
from tests.faults.zoo.mutants import Mutant, zoo
from tests.faults.zoo.replays import Replayed, replay_shadow
from tests.faults.zoo.trial import Ending, try_mutant

AMBER = "#d9a441"
REPLAYS = 200
LOST_POINTS = 1.9  # from here on a model has to be refused
R1 = {True: {"at_least": 0.95, "goal": "R1"}, False: {"at_most": 0.05}}  # has it lost so many → the bound of the share refused
COLOURS = {"gate": GREEN, "load check": "#7fb7be", "shadow": AMBER, "canary": RUST, "released": GREY, "no verdict": "black"}


class Tried(NamedTuple):
    """An animal and its ending."""

    mutant: Mutant
    ending: Ending


class Catalogue(NamedTuple):
    """Everything that was tried, as rows and as a picture."""

    tried: Sequence[Tried]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each animal."""
        return [
            {"name": mutant.name, "what": mutant.what, "good": mutant.is_good, **ending._asdict()}
            for mutant, ending in self.tried
        ]

    def draw(self, path: Path) -> None:
        """Draw how many texts each animal saw until it was stopped, coloured by where."""
        figure = Figure(figsize=(12, 1.5 + 0.32 * len(self.tried)), layout="constrained")
        axes = figure.subplots()
        for row, (_mutant, ending) in enumerate(reversed(self.tried)):
            seen = ending.compared + ending.answered
            axes.barh(row, seen, color=COLOURS[ending.where], height=0.7)
            costs = f"{ending.where}: {ending.by}" if ending.where not in ("gate", "load check") else ending.where
            more = f", {ending.labels} labels, {ending.harmed} harmed" if seen else ""
            axes.annotate(f"{costs}{more}", (seen, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(range(len(self.tried)), [mutant.name for mutant, _ in reversed(self.tried)], fontsize=8)
        axes.set_xlabel("texts that both versions answered, and callers' texts that the new one had to answer")
        axes.margins(x=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            figure.savefig(part, format="png", dpi=110)


def run(
    artifacts: Path,
    dvc_lock: Path,
    params: Params,
    scratch: Path,
    report: Callable[[str], None],
    *,
    texts: int,
    names: Sequence[str] = (),
) -> tuple[Outcome, Catalogue]:
    """Release the animals of these names, by default all, with so many live texts for each."""
    report("the champion answers the live texts offline")
    habitat = make_habitat(Original(artifacts), texts)
    replays = replay_all(habitat, params, [mutant for mutant in zoo() if not names or mutant.name in names])
    tried = []
    with enclosure(habitat, dvc_lock, params, scratch / "stack") as stack:
        for mutant in zoo():
            if names and mutant.name not in names:
                continue
            ending = try_mutant(stack, mutant, scratch / "mutants" / mutant.name)
            tried.append(Tried(mutant, ending))
            report(described(tried[-1]))
    return outcome_of(tried, replays), Catalogue(tried)


def replay_all(habitat: Habitat, params: Params, mutants: Sequence[Mutant]) -> dict[str, Replayed]:
    """Replay the mutants whose one release may be luck, by their names."""
    heads = {mutant.name: mutant.replayed(habitat) for mutant in mutants if mutant.replayed}
    return {name: replay_shadow(habitat, head, params.release, REPLAYS) for name, head in heads.items()}


def outcome_of(tried: Sequence[Tried], replays: Mapping[str, Replayed] = {}) -> Outcome:
    """Judge the endings: K3 of the goals. The shares of replays that the shadow refuses are held against R1."""
    bad, good = ([each for each in tried if each.mutant.is_good is kind] for kind in (False, True))
    stopped = sum(each.ending.is_stopped for each in bad)
    places = {where: sum(each.ending.where == where for each in bad) for where in COLOURS}
    harmed = {each.mutant.name: each.ending.harmed for each in bad if each.ending.harmed}
    promises = [
        Promise("bad models that were tried", len(bad), "models", at_least=1),
        Promise("bad models refused or rolled back", stopped / max(len(bad), 1), "of them", at_least=1, goal="K3"),
        Promise("good models refused or rolled back", sum(each.ending.is_stopped for each in good), "models", at_most=0),
    ]
    promises += [
        Promise(f"{name}: replays that the shadow refused", replayed.refused, "of them", **R1[replayed.points <= -LOST_POINTS])
        for name, replayed in replays.items()
    ]
    title = f"{stopped} of {len(bad)} bad models stopped, {_listed(places)}"
    notes = [
        *map(described, tried),
        *(_described_replays(*each) for each in replays.items()),
        f"requests harmed: {_listed(harmed) or 'none'}",
    ]
    return Outcome(
        "zoo",
        title,
        promises,
        notes,
        {
            "stopped": stopped,
            "places": places,
            "harmed": harmed,
            "replays": {name: each._asdict() for name, each in replays.items()},
        },
    )


def described(each: Tried) -> str:
    """Return a line on an animal and its ending."""
    mutant, ending = each
    costs = f"; {ending.compared} texts compared, {ending.labels} labels, {ending.answered} answered, {ending.harmed} harmed"
    reached = costs if ending.compared + ending.answered else ""
    return f"{mutant.name} ({mutant.what}): {ending.where}, {ending.by}{reached}; {ending.why.splitlines()[0]}"


def _described_replays(name: str, replayed: Replayed) -> str:
    return (
        f"{name}: {replayed.points:+.1f} points, other answers to {replayed.differing:.1%}: refused in the shadow in "
        f"{replayed.refused:.1%} of {REPLAYS} replays, with {replayed.median_labels:.0f} labels in the median"
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)
