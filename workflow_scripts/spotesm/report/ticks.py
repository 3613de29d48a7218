"""Round numbers along an axis: where they are, and how they are written."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

SECOND, MINUTE, HOUR, DAY = 1, 60, 3600, 86400
TIME_STEPS = (
    *(s * SECOND for s in (1, 2, 5, 10, 15, 30)),
    *(m * MINUTE for m in (1, 2, 5, 10, 15, 30)),
    *(h * HOUR for h in (1, 2, 3, 6, 12)),
    *(d * DAY for d in (1, 2, 7, 14, 28)),
)
MOST_TICKS, FEW_TICKS = 7, 4


@dataclass(frozen=True)
class Tick:
    """A mark on an axis.

    Attributes:
        at: where, in percent of the axis.
        text: what it says.
        minor: whether a narrow page may do without it.
    """

    at: float
    text: str
    minor: bool = False


@dataclass(frozen=True)
class Axis:
    """A stretch of numbers, drawn from 0 to 100 percent.

    Attributes:
        low, high: its ends; the same number is taken for a stretch of its own.
        is_log: whether equal ratios are equally long; then `low` > 0.
    """

    low: float
    high: float
    is_log: bool = False

    def percent(self, value: float) -> float:
        """Return where a number is; what lies outside is at the nearer end."""
        low, high, value = map(self._scaled, (self.low, self.high, value))
        if high <= low:
            return 50.0
        return round(100 * min(max((value - low) / (high - low), 0), 1), 3)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def ticks(self, whole: bool = False) -> list[Tick]:
        """Return round numbers on it; whole ones alone for counts."""
        numbers = _round_logs(self.low, self.high) if self.is_log else []
        if len(numbers) < 2:
            numbers = _round_numbers(self.low, self.high, 1 if whole else 0)
        return _thin([(number, write_number(number)) for number in numbers], self)

    def time_ticks(self) -> list[Tick]:
        """Return round times on it; the ends are seconds since 1970."""
        span = self.high - self.low
        steps = [step for step in TIME_STEPS if span / step <= MOST_TICKS]
        step = steps[0] if steps else math.ceil(span / MOST_TICKS / DAY) * DAY
        first = math.ceil(self.low / step)
        times = [n * step for n in range(first, math.floor(self.high / step) + 1)]
        return _thin([(time, _write_time(time, step, span)) for time in times], self)


def write_number(number: float) -> str:
    """Write a number as people do: 1,200 or 0.05."""
    return f"{number:,.10g}"


def _thin(numbers: list[tuple[float, str]], axis: Axis) -> list[Tick]:
    many = len(numbers) > FEW_TICKS
    return [
        Tick(axis.percent(number), text, minor=many and n % 2 == 1)
        for n, (number, text) in enumerate(numbers)
    ]


def _round_numbers(low: float, high: float, least_step: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten, `MOST_TICKS` at most."""
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    steps = [power * factor for factor in (1, 2, 5, 10, 20)]
    step = next(s for s in steps if s >= least_step and (high - low) / s < MOST_TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{n * step:.10g}") for n in range(first, last + 1)]


def _round_logs(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, or powers alone where those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        numbers = [float(f"{f}e{power}") for power in powers for f in factors]
        numbers = [number for number in numbers if low <= number <= high]
        if len(numbers) <= 2 * MOST_TICKS:
            break
    return numbers


def _write_time(seconds: float, step: float, span: float) -> str:
    form = "%d %b" if step >= DAY else "%H:%M" if step >= MINUTE else "%H:%M:%S"
    if span > DAY > step:
        form = f"%d %b {form}"
    return datetime.fromtimestamp(seconds, UTC).strftime(form)
