"""How fast a simulated engine is, and how much it holds.

A profile turns the contents of one engine step into milliseconds. The coefficients come from three places:

* AIC: least-squares fits to AIConfigurator 0.12's measured-kernel model (vLLM 0.24 data base, batch 1, prompts of
  256 tokens and more; up to 25 % off below that).
* Silicon: a fit to 24 end-to-end measurements of vLLM 0.12 on 2xH100 (AIConfigurator's ``silicon_sample.csv``);
  mean error of the time per output token 1.5 %, largest 7 %.
* Arithmetic: KV capacity = GPUs * 80 GiB * 0.90 - weights - 4 GB a GPU, divided by the KV bytes of a token.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from pointsman.errors import ConfigError

DEFAULT_PROFILE = "qwen3-32b-2xh100"


class EngineProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cost model and the limits of one engine. Times are milliseconds, lengths are tokens."""

    name: str
    model: str
    """Name the engine serves the model under, unless told otherwise."""
    prefill_fixed: float
    """``a``: what a prefill-only step costs before its first token."""
    prefill_per_token: float
    """``b``: per prompt token computed."""
    prefill_quadratic: float
    """``c``: per squared token, the attention of new tokens to each other."""
    prefill_cached: float
    """``d``: per new token and per token already in the KV cache, the attention to those."""
    decode_base: float
    """A step with at least one decoding request: weights are read once."""
    decode_per_request: float
    """Added for every decoding request."""
    decode_per_context_token: float
    """Added for every token of context of every decoding request: the KV cache is read."""
    interference: float
    """Share of a prefill-only step's cost that chunks add to a step they share with decodes."""
    step_floor: float
    """No step is shorter than this."""
    kv_tokens: int
    block_size: int = 16
    max_num_seqs: int = 256
    max_batched_tokens: int = 8192
    max_model_len: int = 40_960
    load_lora_ms: float = 50.0
    """Step time lost when an adapter is copied to the device. An assumption: about 1 GB over PCIe 5 at 20 GB/s."""
    kv_bytes_per_token: int = 262_144
    """Keys and values of one token over all devices, bytes."""
    cpu_kv_tokens: int = 0
    """Tokens that fit in a second tier in the host's memory; 0: there is none."""
    cpu_gb_per_s: float = 20.0
    """Copying back from that tier, 10^9 bytes per second, all devices together. An assumption: PCIe, not its peak."""
    transfer_gb_per_s: float = 25.0
    """Sending KV blocks to another engine, 10^9 bytes per second. An assumption: half of one 400 Gb/s network card."""

    @property
    def num_blocks(self) -> int:
        """KV blocks on the device."""
        return self.kv_tokens // self.block_size

    @property
    def cpu_blocks(self) -> int:
        """KV blocks of the second tier."""
        return self.cpu_kv_tokens // self.block_size

    def restore_ms(self, blocks: int) -> float:
        """Copying blocks from the host's memory to the device."""
        return blocks * self.block_size * self.kv_bytes_per_token / (self.cpu_gb_per_s * 1e6)

    def transfer_ms(self, tokens: int) -> float:
        """Sending the keys and values of so many tokens from a prefill engine to a decode engine."""
        return tokens * self.kv_bytes_per_token / (self.transfer_gb_per_s * 1e6)

    def chunk_ms(self, tokens: int, done: int) -> float:
        """Prefill cost of ``tokens`` more tokens of a prompt of which ``done`` are in the cache, computed or hit."""
        return tokens * (self.prefill_per_token + self.prefill_quadratic * tokens + self.prefill_cached * done)

    def step_ms(self, decodes: int, context: int, prefill: float) -> float:
        """Length of one step.

        Args:
            decodes: requests that get one token each.
            context: sum of their context lengths, tokens.
            prefill: sum of :meth:`chunk_ms` over the step's prompt chunks.
        """
        if not decodes:
            return max(self.step_floor, self.prefill_fixed + prefill)
        decode = self.decode_base + self.decode_per_request * decodes + self.decode_per_context_token * context
        if prefill:
            # The fit to silicon takes the whole prefill of a prompt, its fixed part included.
            decode += self.interference * (self.prefill_fixed + prefill)
        return max(self.step_floor, decode)


PROFILES = {
    profile.name: profile
    for profile in (
        EngineProfile(
            name="qwen3-32b-2xh100",
            model="Qwen/Qwen3-32B",
            prefill_fixed=8.0,  # AIC: 8.0 + 0.0475 n + 8.7e-7 n^2
            prefill_per_token=0.0475,
            prefill_quadratic=8.7e-7,
            prefill_cached=1.74e-6,  # 2c, so that chunking changes nothing; AIC measures about 1.6e-6
            decode_base=14.12,  # silicon: 14.12 + 0.0553 B + 5.32e-5 B ctx + 0.875 B prefill/osl
            decode_per_request=0.0553,
            decode_per_context_token=5.32e-5,
            interference=0.875,
            step_floor=14.1,
            kv_tokens=309_000,  # arithmetic: 262,144 B a token, 65.5 GB of weights; agrees with the silicon rows
            kv_bytes_per_token=262_144,
        ),
        EngineProfile(
            name="llama-3.1-70b-4xh100",
            model="meta-llama/Llama-3.1-70B-Instruct",
            prefill_fixed=7.9,  # AIC: 7.9 + 0.0599 n + 5.4e-7 n^2
            prefill_per_token=0.0599,
            prefill_quadratic=5.4e-7,
            prefill_cached=1.08e-6,  # 2c
            decode_base=15.2,  # AIC: 15.2 + 0.0325 B + 2.64e-5 B ctx
            decode_per_request=0.0325,
            decode_per_context_token=2.64e-5,
            interference=0.875,  # as measured for Qwen3-32B
            step_floor=15.2,
            kv_tokens=464_000,  # arithmetic: 327,680 B a token, 141 GB of weights
            kv_bytes_per_token=327_680,
            max_model_len=131_072,
        ),
        EngineProfile(
            name="qwen3-8b-1xh100",
            model="Qwen/Qwen3-8B",
            prefill_fixed=4.5,  # AIC: 4.5 + 0.0186 n + 4.9e-7 n^2
            prefill_per_token=0.0186,
            prefill_quadratic=4.9e-7,
            prefill_cached=9.8e-7,  # 2c
            decode_base=6.6,  # AIC: 6.6 + 0.0121 B + 4.7e-5 B ctx
            decode_per_request=0.0121,
            decode_per_context_token=4.7e-5,
            interference=0.875,  # as measured for Qwen3-32B
            step_floor=6.6,
            kv_tokens=386_000,  # arithmetic: 147,456 B a token, 16.4 GB of weights
            kv_bytes_per_token=147_456,
        ),
    )
}


def find_profile(name: str, *, kv_tokens: int | None = None) -> EngineProfile:
    """The profile of that name, or of that file, with another KV capacity if one is given.

    Raises:
        ConfigError: if there is no such profile, the file is none, or the capacity holds no block.
    """
    profile = PROFILES.get(name)
    if profile is None and name.endswith((".yaml", ".yml", ".json")):
        profile = load_profile(Path(name))
    if profile is None:
        hint = f"one of {', '.join(PROFILES)}, or a file that pointsman calibrate wrote"
        raise ConfigError(f"no engine profile named {name!r}", field="profile", hint=hint)
    if kv_tokens is None:
        return profile
    if kv_tokens < profile.block_size:
        raise ConfigError(f"{kv_tokens} tokens of KV cache hold no block of {profile.block_size}", field="kv_tokens")
    return msgspec.structs.replace(profile, kv_tokens=kv_tokens)


def load_profile(path: Path) -> EngineProfile:
    """A profile from a YAML or JSON file.

    Raises:
        ConfigError: if the file cannot be read or is no profile, naming the field.
    """
    try:
        profile = msgspec.convert(yaml.safe_load(path.read_text("utf-8")), EngineProfile)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the profile: {error}", source=str(path), field="profile") from error
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"no engine profile: {error}", source=str(path), field="profile") from error
    lowest = min(profile.block_size, profile.max_num_seqs, profile.max_batched_tokens, profile.max_model_len)
    if lowest < 1 or profile.num_blocks < 1 or profile.decode_base <= 0:
        raise ConfigError("sizes and decode_base must be above 0", source=str(path), field="profile")
    return profile
