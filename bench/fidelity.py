"""How far the cost model may be trusted: every claim about it, measured and printed by one command.

Run from the repository's root: ``python -m bench.fidelity [--sections 1,2,...] [--quick] [--page]``.

1. worked examples of the paper and of public books, figure 3, table 1
2. published step times of the paper, predicted
3. orderings of layouts that the paper found
4. plans ranked by the model against the TPU compiler, and 5. their memory
6. published collectives and train steps
7. eight CPU devices, timed here
8. the step times of section 2 by the TPU compiler's schedules

Each section is a module with ``run(say) -> tuple[Verdict, ...]``. Sections print tables; the verdicts of all
stand at the end, and last how many targets are met. A missed target is no error: the exit status is 0 unless
a section fails. Ctrl-C prints what is known so far. Results are on stdout, progress on stderr.
"""

import argparse
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoshard.text_table import align
from bench.fidelity_verdicts import INTERRUPTED, Verdict


@dataclass(frozen=True, slots=True)
class Section:
    """One or two sections that a module runs together.

    Attributes:
        numbers: Their numbers.
        module: The module's name in `bench`.
        title: What they compare.
        quick: Whether they take well under a minute on a quiet machine.
    """

    numbers: tuple[int, ...]
    module: str
    title: str
    quick: bool

    @property
    def label(self) -> str:
        """The numbers as text."""
        return ", ".join(map(str, self.numbers))


SECTIONS = (
    Section((1,), "fidelity_examples", "worked examples, figure 3 and table 1", True),
    Section((2,), "fidelity_published", "published step times of the paper", False),
    Section((3,), "fidelity_orderings", "orderings of the paper's layouts", True),
    Section((4, 5), "fidelity_compiled", "plans ranked by the model and by the TPU compiler; memory", True),
    Section((6,), "fidelity_measured", "published collectives and train steps", False),
    Section((7,), "fidelity_cpu", "eight CPU devices", False),
    Section((8,), "fidelity_estimated", "published step times by the TPU compiler", False),
)

Found = list[tuple[Section, Verdict]]


def main() -> None:
    """Run the sections that are asked for, then print the verdicts."""
    arguments = parse(sys.argv[1:])
    prepare_environment()
    sections = chosen(arguments.sections, quick=arguments.quick)
    if not sections:
        sys.exit("--quick leaves out all of these sections: choose others, or leave out --quick")
    require_modules(sections)
    found: Found = []
    try:
        run_sections(sections, found, say, note)
    except KeyboardInterrupt:
        note("interrupted: what is known so far")
        sys.exit(INTERRUPTED)
    finally:
        say(summary(found, sections))
    if arguments.page:
        from bench import cost_page  # only where it is asked for: it writes into the documentation

        cost_page.write_errors([(section.label, verdict) for section, verdict in found])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fidelity", description="errors of the cost model")
    parser.add_argument("--sections", type=section_numbers, default=(), help="such as 1,2 (default: all)")
    parser.add_argument("--quick", action="store_true", help="only sections that take well under a minute")
    parser.add_argument("--page", action="store_true", help="write the verdicts into docs/cost-model.md")
    options = parser.parse_args(arguments)
    if options.page and (options.sections or options.quick):
        parser.error("--page needs a run of all sections: leave out --sections and --quick")
    return options


def section_numbers(text: str) -> tuple[int, ...]:
    """Read a list such as "1,4".

    Raises:
        argparse.ArgumentTypeError: If it is none, or there is no such section.
    """
    known = [number for section in SECTIONS for number in section.numbers]
    wanted = [part.strip() for part in text.split(",")]
    unknown = [part for part in wanted if not part.isdigit() or int(part) not in known]
    if unknown:
        known_text = ",".join(map(str, known))
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}: choose from {known_text}")
    return tuple(map(int, wanted))


def prepare_environment() -> None:
    """What must stand before JAX starts: the CPU as its only platform, with eight devices."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()


def chosen(numbers: Sequence[int], *, quick: bool) -> tuple[Section, ...]:
    """The sections with these numbers, all where there are none; only quick ones if so asked."""
    wanted = [section for section in SECTIONS if not numbers or set(numbers) & set(section.numbers)]
    return tuple(section for section in wanted if section.quick or not quick)


def require_modules(sections: Sequence[Section]) -> None:
    """Stop before anything runs if a section's module is missing."""
    missing = [s for s in sections if importlib.util.find_spec(f"bench.{s.module}") is None]
    if missing:
        names = "; ".join(f"section {s.label} needs bench/{s.module}.py" for s in missing)
        sys.exit(f"{names}: not there. Choose others with --sections")


def run_sections(
    sections: Sequence[Section], found: Found, say: Callable[[str], None], note: Callable[[str], None]
) -> None:
    """Run the sections in order; verdicts are added to `found` as they come."""
    for section in sections:
        note(f"section {section.label}: {section.title}")
        say(f"\n== {section.label}. {section.title} ==\n")
        started = time.monotonic()
        module = importlib.import_module(f"bench.{section.module}")
        found.extend((section, verdict) for verdict in module.run(say))
        note(f"section {section.label}: {time.monotonic() - started:.0f} s")


def summary(found: Found, sections: Sequence[Section]) -> str:
    """The table of verdicts; last how many targets are met, and which sections have not been run."""
    head = ("section", "what", "found", "target", "")
    rows = [
        (section.label, verdict.name, verdict.figure, verdict.target, "met" if verdict.met else "MISSED")
        for section, verdict in found
    ]
    last = f"{sum(verdict.met for _, verdict in found)} of {len(found)} targets met"
    finished = {section.label for section, _ in found}
    left = [section for section in SECTIONS if section.label not in finished]
    for why, asked in (("not finished", True), ("not asked for", False)):
        labels = [section.label for section in left if (section in sections) == asked]
        last += f"; {why}: {', '.join(labels)}" if labels else ""
    return "\n".join(["\n== verdicts ==\n", *align([head, *rows]), "", last])


def say(text: str) -> None:
    """Print a result."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
