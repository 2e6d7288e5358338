"""The pipeline of one layer and direction, clock cycle by clock cycle: slow and plain."""

from dataclasses import dataclass, field

UNKNOWN = float("inf")


@dataclass
class Job:
    """A dot product: its groups as (cycles to fetch, cycles to work), and the events it waits for."""

    groups: list[tuple[int, int]]
    fetch_after: list[str] = field(default_factory=list)  # before the first group is fetched
    start_after: list[str] = field(default_factory=list)  # before the first group is worked on
    recurrent_after: list[str] = field(default_factory=list)  # before the group at `recurrent` is worked on
    recurrent: int = -1
    announces: list[tuple[str, int]] = field(default_factory=list)  # (event, cycles after the hand-over)


@dataclass
class Unit:
    """Constants of the pipeline, in cycles unless said otherwise."""

    depth: int  # groups that can be fetched ahead
    tree: int
    interval: int
    to_cell: int
    to_hidden: int
    to_projected: int
    to_readout: int
    decide: int
    dynamic: bool
    high: list[tuple[int, int]]
    low: list[tuple[int, int]]
    recurrent_high: int
    recurrent_low: int
    projections: int = 0  # outputs
    projected: list[tuple[int, int]] = field(default_factory=list)
    readout: str = "none"  # or "exposed", "hidden"
    read: list[tuple[int, int]] = field(default_factory=list)


def jobs(unit: Unit, plan: list[list[bool]]) -> list[Job]:
    """The dot products of a sequence, in order; plan is [time][element], True = low."""
    listed = []
    for t, step in enumerate(plan):
        for k, low in enumerate(step):
            job = Job(groups=unit.low if low else unit.high)
            if k == 0 and t > 0:
                job.recurrent = unit.recurrent_low if low else unit.recurrent_high
                job.recurrent_after = [f"h {t - 1}"]
                if unit.dynamic:
                    job.fetch_after = [f"decision {t - 1} 0"]
                    job.recurrent_after.append(f"decision {t - 1} {len(step) - 1}")
                if unit.readout == "exposed":
                    job.fetch_after.append(f"readout {t - 1}")
            if unit.dynamic:
                job.announces.append((f"decision {t} {k}", unit.to_cell + unit.decide))
            if k == len(step) - 1:
                job.announces.append((f"m {t}" if unit.projections else f"h {t}", unit.to_hidden))
            listed.append(job)
        for output in range(unit.projections):
            job = Job(groups=unit.projected, start_after=[f"m {t}"] if output == 0 else [])
            if output == unit.projections - 1:
                job.announces.append((f"h {t}", unit.to_projected))
            listed.append(job)
        if unit.readout != "none" and t < len(plan) - 1:
            job = Job(groups=unit.read, announces=[(f"readout {t}", unit.to_readout + unit.decide)])
            job.start_after = [f"h {t}"] if unit.readout == "exposed" else []
            listed.append(job)
    return listed


def cycles(unit: Unit, plan: list[list[bool]]) -> int:
    """Clock cycles until the last h of a sequence is in the input buffers."""
    work = [(job, g) for job in jobs(unit, plan) for g in range(len(job.groups))]
    events: dict[str, float] = {}
    fetched: list[int] = []  # instants at which the fetches of the groups end
    started = 0  # groups that the dot-product unit has taken out of the staging registers
    busy_until: int | None = None  # of the group at work
    handed_over = -unit.interval

    def passed(names: list[str]) -> bool:
        return all(events.get(name, UNKNOWN) <= clock for name in names)

    clock = 0
    while started < len(work) or busy_until is not None:
        moved = True
        while moved:
            moved = False
            if busy_until is not None and clock >= busy_until:
                job, g = work[started - 1]
                last = g == len(job.groups) - 1
                # A result that would arrive before the one before has been handed over is held back.
                if not last or clock + unit.tree >= handed_over:
                    busy_until = None
                    moved = True
                    if last:
                        handed_over = max(clock + unit.tree, handed_over + unit.interval)
                        events.update({name: handed_over + delay for name, delay in job.announces})
            if busy_until is None and started < len(fetched) and fetched[started] <= clock:
                job, g = work[started]
                if (g > 0 or passed(job.start_after)) and (g != job.recurrent or passed(job.recurrent_after)):
                    busy_until = clock + job.groups[g][1]
                    started += 1
                    moved = True
            idle = not fetched or fetched[-1] <= clock
            if idle and len(fetched) < len(work) and len(fetched) - started < unit.depth:
                job, g = work[len(fetched)]
                if g > 0 or passed(job.fetch_after):
                    fetched.append(clock + job.groups[g][0])
                    moved = True
        clock += 1
    return int(events[f"h {len(plan) - 1}"])
