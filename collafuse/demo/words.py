"""The outcome in a few lines, for the end of the terminal."""

from evaluation.metrics.comparison import sentence
from evaluation.metrics.spread import Spread
from evaluation.reporting.demo_results import ClientResult, DemoResult


def in_words(result: DemoResult) -> str:
    """What a person wants to know first: did it work, how good, how fast, was anything lost."""
    lines = [f"{result.duration_seconds:.0f} s on {result.machine}", ""]
    for client in result.clients:
        lines += _client(client)
    for kind, account in result.accounting.items():
        lines.append(
            f"{kind}: {account.attempted} attempted, {account.acknowledged} acknowledged, {account.stored} stored, "
            f"{account.lost} lost, {account.duplicated} duplicated, {account.dead_lettered} dead-lettered, "
            f"{account.unexpected} unexpected"
        )
    return "\n".join(lines)


def _client(client: ClientResult) -> list[str]:
    steps = f"{_milliseconds(client.server_step_seconds)} on the server, {_milliseconds(client.device_step_seconds)} here"
    agreement = (
        f"collaborative {_share(client.collaborative.agreement)}, isolated {_share(client.isolated.agreement)}, "
        f"real {_share(client.real_floor.agreement)}"
    )
    released = client.disclosure.released_mse
    return [
        f"{client.name} (digits {', '.join(map(str, client.digits))}), {client.provider}",
        f"  recognised as asked: {agreement}",
        f"  {sentence(client.comparisons[0])}",
        f"  released images differ from the clean ones by an MSE of {released.mean:.2f} ± {released.standard_deviation:.2f}",
        f"  network evaluations on the device: {client.evaluations.device_share:.0%}; a step takes {steps}",
        "",
    ]


def _share(spread: Spread) -> str:
    return f"{spread.mean:.1%} ± {spread.standard_deviation:.1%}"


def _milliseconds(spread: Spread | None) -> str:
    return "not measured" if spread is None else f"{1e3 * spread.mean:.1f} ms"
