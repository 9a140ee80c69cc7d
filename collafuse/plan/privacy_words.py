"""A privacy plan for people: what to set, what it promises in plain terms, what other prices take, what makes it cheaper."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from collafuse.plan.privacy import FALSE_POSITIVES, Price, PrivacyPlan, PrivacyQuestion, Remedy

NO_GUARANTEE = "no useful guarantee"


def show_privacy(question: PrivacyQuestion, plan: PrivacyPlan, console: Console) -> None:
    """Print a privacy plan, in no more columns than the console has."""
    for heading, lines in _sections(question, plan):
        console.print(Text(heading, "yellow" if heading == NO_GUARANTEE else "bold"))
        for line in lines:
            console.print(_indented(line))
    console.print(Text("other prices", "bold"))
    console.print(_prices(plan))


def _sections(question: PrivacyQuestion, plan: PrivacyPlan) -> Iterator[tuple[str, list[str]]]:
    releases = "1 release" if question.releases == 1 else f"{question.releases} releases"
    asked = f"{releases} of an image of norm up to {plan.norm:.4g} for ε = {question.epsilon:g} at δ = {question.delta:g}"
    yield asked, ["no cut does"] if plan.target is None else _cut(question, plan.target)
    if plan.objections:
        yield NO_GUARANTEE, list(plan.objections)
    if plan.target is not None:
        yield "what it promises", _meaning(plan.target)
    cheaper = _cheaper(question, plan)
    if cheaper:
        yield "what makes it cheaper", cheaper
    yield "what it does not say", _limits()


def settings_of(question: PrivacyQuestion, price: Price) -> tuple[str, ...]:
    """The lines of a device's settings file that make it release so, and refuse to go past the price."""
    clip = () if question.clip_norm is None else (f"clip_norm = {question.clip_norm!r}",)
    return (
        f'schedule = "{question.schedule}"',
        f"schedule_steps = {question.timesteps}",
        f"cut_ratio = {price.cut_ratio!r}",
        f"releases = {question.releases}",
        *clip,
        f"epsilon_budget = {question.epsilon!r}",
        f"delta = {question.delta!r}",
    )


def _cut(question: PrivacyQuestion, price: Price) -> list[str]:
    return [
        f"least cut: t = {price.t_cut} of {question.timesteps}, cut ratio {price.cut_ratio:.6g}, where ε = {price.epsilon:.4g}",
        f"of the chain the client has {_percent(price.cut_ratio)}, the server {_percent(price.server_share)}",
        f"noise there: σ = {price.sigma:.4g} times the way from grey to white, a signal at {price.snr_db:.1f} dB",
        f"in the settings of a device: {', '.join(settings_of(question, price))}",
        "a late cut need not be slow: the device's steps are chosen apart (head_steps = 4); whether four do is to be measured",
    ]


def _meaning(price: Price) -> list[str]:
    guessed, known = _percent(FALSE_POSITIVES), _percent(price.detection)
    promise = (
        f"what anybody gets right in {guessed} of cases without the releases, the server, or whoever takes them from it, "
        f"gets right in at most {known} with them: whether it is this image, whether it shows an illness, what it looks like"
    )
    return [
        promise,
        "that bounds an attacker who knows everything else; what attacks reach in practice is less, and has to be measured",
    ]


def _cheaper(question: PrivacyQuestion, plan: PrivacyPlan) -> list[str]:
    found = [_remedy(remedy) for remedy in plan.remedies]
    if plan.single is not None:
        found.append(
            f"one release instead of {question.releases}: the cut may be at {plan.single.cut_ratio:.6g}"
        )
    return found


def _remedy(remedy: Remedy) -> str:
    return (
        f"images clipped to norm {remedy.clip_norm:.3g}: the cut may be at {remedy.cut_ratio:g}; "
        f"the strongest image keeps {_percent(remedy.kept)} of its contrast"
    )


def _limits() -> list[str]:
    return [
        "it counts one image: a person of whom there are several is told apart more easily, and their μ² add up",
        "labels, prompts, how many images there are and when they come are not hidden",
        "the server hands over samples as noisy: the less a release says of an image, the more of a new one is left to the head",
    ]


def _prices(plan: PrivacyPlan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in (
        "  ε",
        "cut ratio",
        "server",
        "signal",
        f"right, at most (else {_percent(FALSE_POSITIVES)})",
    ):
        table.add_column(heading, justify="right", overflow="fold")
    for epsilon, price in plan.others:
        if price is None:
            table.add_row(f"{epsilon:g}", "no cut", "", "", "")
        else:
            table.add_row(
                f"{epsilon:g}",
                f"{price.cut_ratio:.6g}",
                _percent(price.server_share),
                f"{price.snr_db:.1f} dB",
                _percent(price.detection),
            )
    return table


def _percent(value: float) -> str:
    """Three digits, so that a server's last steps are not rounded away."""
    return f"{100 * value:.3g} %"


def _indented(line: str) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(width=3)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row("  ·", line)
    return grid
