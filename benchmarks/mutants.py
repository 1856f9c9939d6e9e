"""How many small faults do the tests notice? Each mutant changes one place of a module; a test ought to fail.

    python benchmarks/mutants.py [--only MODULE ...] [--sample N] [--seed S] [--json FILE] [--store]

pytest collects a module's tests once and records which lines each runs. A mutant then costs a fork: the child swaps
the changed code in and runs the tests of that line, the fastest first, until one fails. Not changed are docstrings,
annotations, f-strings (words for people), defaults of dataclass fields and `strict=` of zip. Whole regular expressions
stay too: cutting them up yields mutants by the thousand. A survivor's reason stands in mutants.yaml.
"""

import __future__

import argparse
import ast
import copy
import importlib
import inspect
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child must not wait for threads that it does not have
import hypothesis  # noqa: E402
import pytest  # noqa: E402
import results  # noqa: E402
import yaml  # noqa: E402
from _pytest.runner import runtestprotocol  # noqa: E402

# Module → what pytest is called with.
MODULES = {
    "translation.segments": ["tests/test_segments.py"],
    "translation.protect": ["tests/test_protect.py", "-k", "not linear_time"],
    "filtering.rules": ["tests/test_rules.py", "tests/test_filtering.py", "-k", "test_rules or content_rule"],
    "dpo.loss": ["tests/test_dpo.py", "-k", "the_loss_is or the_loss_pushes or the_terms"],
    "statistics": ["tests/test_statistics.py", "-k", "not cover and not wrong_as_often and not settle_settle"],
    "evaluation.verdicts": ["tests/test_verdicts.py", "-k", "not fifty_thousand"],
}
# Tests that take longer (seconds, traced) are left out: simulations, whole stages.
SLOWEST = 4.0
GOAL = 85
SWAPS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div},
    **{ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.RShift: ast.LShift},
}
Defined = ast.FunctionDef | ast.ClassDef


@dataclass
class Mutant:
    """`node` of the top-level statement `top` is replaced by `new` in field (and index) of its parent."""

    top: ast.stmt
    place: tuple[ast.AST, str, int | None]
    node: ast.AST
    new: ast.AST

    def __str__(self) -> str:
        shown = self.place[0] if isinstance(self.node, ast.Constant | ast.Slice) else self.node
        name, before = f"{self.top.name}: " if isinstance(self.top, Defined) else "", ast.unparse(shown)
        if shown is self.node:
            return name + " → ".join(text.partition("\n")[0] for text in (before, ast.unparse(self.new)))
        self.put(self.new)
        after = ast.unparse(shown)
        self.put(self.node)
        return name + " → ".join(text.strip().partition("\n")[0] for text in (before, after))

    def put(self, node: ast.AST) -> None:
        """Set the place in the tree to a node."""
        parent, field, index = self.place
        if index is None:
            setattr(parent, field, node)
        else:
            getattr(parent, field)[index] = node


def mutants(body: list[ast.stmt]) -> list[Mutant]:
    """Every mutant of a module's statements, in the order of its lines."""
    found = []

    def visit(top: ast.stmt, parent: ast.AST) -> None:
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "returns", "decorator_list") or (field == "value" and _is_strict(parent)):
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(node, ast.AST) and not isinstance(node, ast.JoinedStr):
                    if isinstance(parent, ast.ClassDef) and not isinstance(node, ast.FunctionDef):
                        continue
                    place = (parent, field, index)
                    found.extend(Mutant(top, place, node, new) for new in _changed(node, parent, field))
                    visit(top, node)

    for top in body:
        if not isinstance(top, ast.Import | ast.ImportFrom):
            visit(top, top)
    return found


def _is_strict(node: ast.AST) -> bool:
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _changed(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """What a node may become."""

    def other(**fields) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    match node:
        case ast.Compare():
            for at, op in enumerate(node.ops):
                yield other(ops=[*node.ops[:at], SWAPS[type(op)](), *node.ops[at + 1 :]])
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in SWAPS:
            yield other(op=SWAPS[type(node.op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield other(value=not node.value)
        case ast.Constant(value=int() | float()):
            yield other(value=node.value + 1)
        case ast.Constant(value=str()) if isinstance(parent, ast.Compare | ast.Set | ast.Tuple | ast.Subscript):
            yield other(value=f"{node.value}~")
        case ast.Return(value=ast.AST()):
            yield other(value=ast.copy_location(ast.Constant(None), node))
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()):
            yield ast.copy_location(ast.Pass(), node)
        case ast.Call(func=ast.Attribute(), args=[], keywords=[]):
            yield node.func.value
        case ast.Slice():
            yield from (other(**{end: None}) for end in ("lower", "upper") if getattr(node, end))
        case ast.Continue() | ast.Break():
            yield ast.copy_location(ast.Break() if isinstance(node, ast.Continue) else ast.Continue(), node)
    tested = field == "test" or (field == "ifs" and isinstance(parent, ast.comprehension))
    if tested and not isinstance(node, ast.Compare | ast.UnaryOp):
        yield ast.copy_location(ast.UnaryOp(ast.Not(), node), node)


def swap_in(module, mutant: Mutant, body: list[ast.stmt]) -> None:
    """Change the imported module in place, so that whoever imported from it has the mutant too."""

    def run(statements: list[ast.stmt], space: dict) -> None:
        tree = ast.fix_missing_locations(ast.Module(statements, []))
        exec(compile(tree, module.__file__, "exec", __future__.annotations.compiler_flag), space)

    mutant.put(mutant.new)
    if not isinstance(mutant.top, Defined):  # a constant, and what is made of it
        later = body[body.index(mutant.top) :]
        return run([s for s in later if not isinstance(s, Defined | ast.Import | ast.ImportFrom)], vars(module))
    space = dict(vars(module))
    run([mutant.top], space)
    old, new = vars(module)[mutant.top.name], space[mutant.top.name]
    for before, after in [(old, new)] if not inspect.isclass(old) else _methods(old, new):
        if hasattr(before, "cache_clear"):
            before.cache_clear()
        before, after = inspect.unwrap(before), inspect.unwrap(after)
        before.__code__, before.__defaults__, before.__kwdefaults__ = (
            *(after.__code__, after.__defaults__, after.__kwdefaults__),
        )


def _methods(old: type, new: type) -> Iterator[tuple]:
    for name, value in vars(old).items():
        pair = value, vars(new)[name]
        pair = tuple(getattr(each, "fget", None) or getattr(each, "__func__", each) for each in pair)
        if inspect.isfunction(pair[0]) and pair[0].__code__.co_filename == sys.modules[old.__module__].__file__:
            yield pair


class Session:
    """A pytest plugin: instead of running the tests once, runs those of each mutant."""

    def __init__(self, name: str, sample: int | None, seed: int):
        self.name, self.sample, self.seed = name, sample, seed
        self.outcomes: list[tuple[str, Mutant]] = []

    def pytest_runtestloop(self, session) -> bool:
        self.module = importlib.import_module(f"phoenix_utils.{self.name}")
        self.body = ast.parse(inspect.getsource(self.module)).body
        chosen = mutants(self.body)
        if self.sample and self.sample < len(chosen):
            chosen = random.Random(self.seed).sample(chosen, self.sample)
        runs = sorted(self._traced(session.items), key=lambda run: run[1])
        control = replace(chosen[0], new=chosen[0].node)
        if self._outcome(control, [run[:2] for run in runs]) != "survived":
            pytest.exit(f"{self.name}: the tests fail in a forked child without any mutant", returncode=1)
        for mutant in sorted(chosen, key=lambda mutant: mutant.node.lineno):
            lines = set(range(mutant.node.lineno, mutant.node.end_lineno + 1))
            at_import = not isinstance(mutant.top, Defined)
            tests = [(item, seconds) for item, seconds, seen in runs if at_import or seen & lines]
            self.outcomes.append((self._outcome(mutant, tests), mutant))
        return True

    def _traced(self, items: list) -> list[tuple[pytest.Item, float, set[int]]]:
        """Each test with its seconds and the lines of the module that it runs; the slow ones are left out."""
        found = []
        for item, following in zip(items, [*items[1:], None], strict=True):
            seen, started = set(), time.monotonic()
            for value in vars(self.module).values():  # what an earlier test left in a cache would run no line
                getattr(value, "cache_clear", bool)()

            def trace(frame, event, _, seen=seen):
                code = frame.f_code
                if code.co_filename == self.module.__file__:
                    seen.add(frame.f_lineno)
                    if event == "call":  # its defaults, on whichever lines of the signature they stand
                        first, later = code.co_firstlineno, {at for *_, at in code.co_lines() if at}
                        seen.update(range(first, min(later - {first}, default=first)))
                    return trace

            sys.settrace(trace)
            reports = runtestprotocol(item, log=False, nextitem=following)
            sys.settrace(None)
            if any(report.failed for report in reports):
                pytest.exit(f"{item.nodeid} fails without any mutant; mend it first", returncode=1)
            found.append((item, time.monotonic() - started, seen))
        return [run for run in found if run[2] and run[1] <= SLOWEST]

    def _outcome(self, mutant: Mutant, tests: list[tuple[pytest.Item, float]]) -> str:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(5 + 3 * sum(seconds for _, seconds in tests)))
            try:
                swap_in(self.module, mutant, self.body)
                failed = any(r.failed for item, _ in tests for r in runtestprotocol(item, log=False, nextitem=None))
            except BaseException:  # the module itself breaks
                failed = True
            os._exit(failed)
        status = os.waitpid(child, 0)[1]
        return "timed out" if os.WIFSIGNALED(status) else "killed" if status else "survived"


def main() -> int:
    """Print the table and the survivors; 1 where a module misses the goal or a survivor has no reason."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=MODULES, default=list(MODULES), metavar="MODULE")
    parser.add_argument("--sample", type=int, help="so many mutants of each module, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--store", action="store_true", help="write book/results/mutants.md")
    arguments = parser.parse_args()
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None, deadline=None, phases=phases)
    hypothesis.settings.load_profile("mutants")
    reasons = yaml.safe_load((Path(__file__).parent / "mutants.yaml").read_text(encoding="utf-8"))
    table, survivors, rows, good = [], [], [], True
    for name in arguments.only:
        session, started = Session(name, arguments.sample, arguments.seed), time.monotonic()
        os.chdir(results.ROOT)
        quiet = ["-q", "--no-header", "--disable-warnings", "-p", "no:cacheprovider"]
        if code := pytest.main([*quiet, *MODULES[name]], [session]):
            return int(code)
        counts = Counter(outcome for outcome, _ in session.outcomes)
        total, killed = counts.total(), counts["killed"] + counts["timed out"]
        table.append(
            f"| {name} | {total} | {counts['killed']} | {counts['timed out']} | {counts['survived']} | "
            f"{100 * killed / total:.1f} | {time.monotonic() - started:.0f} |"
        )
        print(table[-1], flush=True)
        good = good and 100 * killed >= GOAL * total
        for outcome, mutant in session.outcomes:
            rows.append({"module": name, "line": mutant.node.lineno, "change": str(mutant), "outcome": outcome})
            if outcome == "survived":
                reason = (reasons.get(name) or {}).get(str(mutant), "")
                change = str(mutant).replace("|", "\\|")
                survivors.append(f"| {name}:{mutant.node.lineno} | `{change}` | {reason or '?'} |")
                print(survivors[-1], flush=True)
                good = good and bool(reason)
        if arguments.json:  # after each module, so that a run that is cut off leaves something
            arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    head = "| module | mutants | killed | timed out | survived | % killed | seconds |"
    lines = [head, "|---" * 7 + "|", *table, "", "| line | change | why no test fails |", "|---|---|---|", *survivors]
    print("\n".join(lines))
    if arguments.store:
        results.store("mutants", "python benchmarks/mutants.py --store", lines)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
