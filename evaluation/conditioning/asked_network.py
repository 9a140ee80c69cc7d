"""A noise predictor that can be asked in three ways, with the encoders that learn together with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diffusion.guidance import nothing_asked, prediction_of
from diffusion.network import UNet, UNetConfig
from diffusion.objective import Predict
from evaluation.conditioning.asking import Asked, Way, all_captions, vocabulary
from evaluation.conditioning.built_in_encoder import BuiltInTextEncoder
from evaluation.conditioning.projected_texts import ProjectedTexts
from evaluation.conditioning.text import TextEncoder
from evaluation.data.phantoms import ATTRIBUTE_NAMES
from evaluation.errors import TextError

CONDITION_SIZE = 32
_NETWORK = "network."


@dataclass(frozen=True, eq=False)
class Question:
    """What guidance needs on one side of the cut.

    predict: of (x_t, t, asked);  asked: (B,) int64 or (B, D) float32;  nothing: what it takes for "nothing asked".
    """

    predict: Predict
    asked: Tensor
    nothing: Tensor

    def of(self, rows: slice) -> "Question":
        """The same of some of the samples."""
        return replace(self, asked=self.asked[rows])


class AskedNetwork(nn.Module):
    """A UNet with labels and a condition, and what turns attributes and texts into conditions.

    Texts are read by the small encoder that learns beside the network, or, where another is given, by that one, which stays
    as it is.
    """

    def __init__(self, config: UNetConfig, encoder: TextEncoder | None = None) -> None:
        super().__init__()
        self.network = UNet(replace(config, condition_size=CONDITION_SIZE))
        self.texts = (
            BuiltInTextEncoder(vocabulary(), CONDITION_SIZE)
            if encoder is None
            else ProjectedTexts(encoder, all_captions(), CONDITION_SIZE)
        )
        self.attributes = nn.Sequential(
            nn.Linear(len(ATTRIBUTE_NAMES), CONDITION_SIZE), nn.LayerNorm(CONDITION_SIZE)
        )

    @classmethod
    def of(
        cls, network: UNet, encoders: Mapping[str, Tensor], encoder: TextEncoder | None = None
    ) -> "AskedNetwork":
        """Put together again what `network` and `encoders` were, with the same `encoder`, in evaluation mode."""
        asked = cls(network.config, encoder)
        weights = {_NETWORK + name: value for name, value in network.state_dict().items()}
        asked.load_state_dict({**weights, **encoders})
        return asked.eval().requires_grad_(requires_grad=False)

    @property
    def encoders(self) -> dict[str, Tensor]:
        """The weights beside the network's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(_NETWORK)}

    def question(self, asked: Asked, way: Way) -> Question:
        """What is asked of N images, in one of the three ways, for `diffusion.guidance.guided`."""
        if way is Way.LABEL:
            nothing = torch.tensor(self.network.config.num_classes)
            return Question(self.network, torch.from_numpy(asked.labels).long(), nothing)
        if way is Way.ATTRIBUTES:
            with torch.no_grad():
                vectors = self.attributes(torch.from_numpy(asked.vectors))
            return self._by_condition(vectors)
        return self.question_in_words(asked.captions())

    def question_in_words(self, texts: Sequence[str]) -> Question:
        """What is asked of N images, in the asker's own words. Raises TextError for words that cannot be read."""
        with torch.no_grad():
            return self._by_condition(self.texts.conditions(texts))

    def _by_condition(self, conditions: Tensor) -> Question:
        return Question(prediction_of(self.network), conditions, nothing_asked(self.network))


def check_prompts(prompts: Sequence[str], encoder: TextEncoder | None = None) -> None:
    """Raise TextError, before anything is trained, for a prompt that the networks here will not understand.

    encoder: whose words they understand; None for the built-in one's, which are those of the captions.
    """
    if not prompts:
        return
    try:
        if encoder is None:
            vocabulary().numbers(prompts)
        else:
            encoder.encode(prompts)
    except TextError as error:
        raise TextError(f"--prompt: {error}") from error
