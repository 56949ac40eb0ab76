"""A Llama that reads a text and then plays codes of an audio codec. It needs transformers and torch, and nothing else.

    ids of the prompt: BOS, the text, then the `start` id; `generate` goes on with ids of audio and stops at `end`.

After `start`, place p of the audio is the code of frame p // K in codebook p % K (K codebooks). Rows of audio pass the
experts beside Llama's own weights; rows of text never do, so that the text is that of the Llama alone. Logits: at a row
of text those of the text, at a row of audio those of the ids that are legal at the next place, NEVER elsewhere.
Guidance is generate's guidance_scale with negative_prompt_ids=[[BOS, start]]: told nothing, the model reads BOS alone.
Shapes: B items, N ids, D width, K codebooks.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

NEVER = -1e30  # a logit; finite, since guidance subtracts


class MixtureConfig(LlamaConfig):
    """Of a Llama, and `audio`:

    text            ids of text
    codebooks, cardinality          K, and the ids of each
    cardinalities   of them, codes that each codebook has
    vocabulary      own (a block of ids for every codebook) or shared (one block)
    rows            of each table of embeddings: the codes and the specials
    bos_row         its row that stands where a codebook has not begun
    outputs         logits of each codebook; one more than the codes where the model ends by itself
    start, end      ids that begin and end the audio (end: None where the model never ends)
    experts         kind (feedforward, bottleneck, lora, full, feedforward_copy, none), and what it needs
    """

    model_type = "partimento_mixture"


class Router:
    """Which rows are audio: set by the model before its layers. It is the forward hook of every layer that has `audio`,
    an expert: rows of audio are what that makes of what the layer read and what it answered."""

    audio_BN1: Tensor

    def __call__(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        read_BND = args[0] if args else kwargs["hidden_states"]
        answer_BND = output[0] if isinstance(output, tuple) else output
        routed_BND = torch.where(self.audio_BN1, layer.audio(read_BND, answer_BND), answer_BND)
        return (routed_BND, *output[1:]) if isinstance(output, tuple) else routed_BND


class Feedforward(nn.Module):
    """narrow, a feed-forward, widen: beside the layer, or instead of it."""

    def __init__(self, width: int, told: dict[str, Any]) -> None:
        super().__init__()
        self.beside = told["place"] == "beside"
        self.narrow = nn.Linear(width, told["width"], bias=False)
        self.up = nn.Linear(told["width"], told["inner"], bias=False)
        self.down = nn.Linear(told["inner"], told["width"], bias=False)
        self.widen = nn.Linear(told["width"], width, bias=False)

    def forward(self, read_BND: Tensor, answer_BND: Tensor) -> Tensor:
        mine_BND = self.widen(self.down(F.gelu(self.up(self.narrow(read_BND)))))
        return answer_BND + mine_BND if self.beside else mine_BND


class Bottleneck(nn.Module):
    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.narrow, self.widen = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)

    def forward(self, read_BND: Tensor, answer_BND: Tensor) -> Tensor:
        return answer_BND + self.widen(F.gelu(self.narrow(read_BND)))


class LowRank(nn.Module):
    """Not merged into the layer, which rows of text read without it."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Linear(layer.in_features, rank, False), nn.Linear(rank, layer.out_features, False)
        self.scale = scale

    def forward(self, read_BND: Tensor, answer_BND: Tensor) -> Tensor:
        return answer_BND + self.lora_B(self.lora_A(read_BND)) * self.scale


class Copy(nn.Module):
    """A layer like that of the text, with weights of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, read_BND: Tensor, answer_BND: Tensor) -> Tensor:
        return self.layer(read_BND)


def experts(config: MixtureConfig, layer: Any) -> dict[str, nn.Module]:
    """The experts of a LlamaDecoderLayer, by the parts that they stand at."""
    told = config.audio["experts"]
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    matrices = [*(f"self_attn.{name}" for name in attention), *(f"mlp.{name}" for name in mlp)]
    match told["kind"]:
        case "feedforward":
            return {"mlp": Feedforward(config.hidden_size, told)}
        case "bottleneck":
            return {name: Bottleneck(config.hidden_size, told["rank"]) for name in ("self_attn", "mlp")}
        case "lora":
            scale = (told["rank"] if told["alpha"] is None else told["alpha"]) / told["rank"]
            return {name: LowRank(layer.get_submodule(name), told["rank"], scale) for name in matrices}
        case "feedforward_copy":
            return {"mlp": Copy(LlamaMLP(config))}
        case "full":
            copies: dict[str, nn.Module] = {"mlp": Copy(LlamaMLP(config))}
            for name in matrices[:4]:
                like = layer.get_submodule(name)
                copies[name] = Copy(nn.Linear(like.in_features, like.out_features, bias=False))
            for name in ("input_layernorm", "post_attention_layernorm"):
                copies[name] = Copy(LlamaRMSNorm(config.hidden_size, config.rms_norm_eps))
            return copies
        case "none":
            return {}
    raise ValueError(f"experts of kind {told['kind']!r}")


class MixtureForCausalLM(LlamaForCausalLM):
    config_class = MixtureConfig

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__(config)
        audio = config.audio
        tables = audio["codebooks"] if audio["vocabulary"] == "own" else 1
        self.books, self.cardinality, self.first = audio["codebooks"], audio["cardinality"], audio["text"]
        self.start, self.end = audio["start"], audio["end"]
        self.total = max(self.start, self.end or 0) + 1
        self.audio_embedding = nn.Embedding(tables * audio["rows"], config.hidden_size)
        self.audio_head = nn.Linear(config.hidden_size, tables * audio["outputs"], bias=False)
        self.router = Router()
        for layer in self.model.layers:
            for name, expert in experts(config, layer).items():
                place = layer.get_submodule(name)
                place.add_module("audio", expert)
                place.register_forward_hook(self.router, with_kwargs=True)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        audio_steps: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """`audio_steps` as `steps` gives them, which needs all ids of a sequence, or a cache that this gave."""
        asked = audio_steps is None
        if audio_steps is None:
            audio_steps = self.steps(input_ids, past_key_values)
        is_audio_BN = audio_steps >= 0
        rows_BND = self.model.embed_tokens(input_ids.masked_fill(is_audio_BN, 0))
        rows_BND = torch.where(is_audio_BN[..., None], self.embed_audio(input_ids, audio_steps), rows_BND)
        self.router.audio_BN1 = is_audio_BN[..., None]
        found = self.model(
            inputs_embeds=rows_BND,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        past = found.past_key_values
        if asked and past is not None:
            past.audio_steps = (past.get_seq_length(), audio_steps[:, -1:])
        kept = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
        logits_BNV = self.logits(found.last_hidden_state[:, kept], audio_steps[:, kept])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits_BNV[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits_BNV, past_key_values=past)

    def steps(self, input_ids: Tensor, past_key_values: Any = None) -> Tensor:
        """[B, N]: 0 at `start`, 1 at the first code, and so on; -1 at the text before."""
        begun_BN = (input_ids == self.start).long().cumsum(1).clamp(max=1).cumsum(1) - 1
        length = 0 if past_key_values is None else past_key_values.get_seq_length()
        if not length:
            return begun_BN
        known, last_B1 = getattr(past_key_values, "audio_steps", (None, None))
        if last_B1 is None or known != length:
            raise ValueError("this cache does not say where in the audio the ids stand: give all ids, or audio_steps")
        goes_on_BN = last_B1 + 1 + torch.arange(input_ids.shape[1], device=input_ids.device)
        return torch.where(last_B1 < 0, begun_BN, goes_on_BN)

    def embed_audio(self, ids_BN: Tensor, steps_BN: Tensor) -> Tensor:
        """The row of a step: the one code that stands there, and BOS for every codebook that has not begun."""
        rows, is_code_BN = self.config.audio["rows"], steps_BN > 0
        tables = self.audio_embedding.weight.unflatten(0, (-1, rows))
        block_BN = (steps_BN - 1) % self.books if len(tables) > 1 else torch.zeros_like(steps_BN)
        code_BN = ids_BN - self.first - block_BN * self.cardinality
        known_BN = (code_BN >= 0) & (code_BN < self.cardinality)
        if self.end is not None:
            ends_BN = ids_BN == self.end
            code_BN, known_BN = torch.where(ends_BN, self.cardinality, code_BN), known_BN | ends_BN
        # Another codebook's id would read a row of that, silently. (On a GPU every step would wait for the answer.)
        if ids_BN.device.type == "cpu" and not torch.compiler.is_compiling() and bool((is_code_BN & ~known_BN).any()):
            raise ValueError("among the ids of the audio is one that is not legal at its place")
        rows_BND = self.audio_embedding((block_BN * rows + code_BN).masked_fill(~(is_code_BN & known_BN), 0))
        bos_KD = tables[:, self.config.audio["bos_row"]].expand(self.books, -1)
        begins_BNK = torch.arange(self.books, device=ids_BN.device) >= steps_BN[..., None]
        return rows_BND * is_code_BN[..., None].to(rows_BND.dtype) + begins_BNK.to(bos_KD.dtype) @ bos_KD

    def logits(self, hidden_BND: Tensor, steps_BN: Tensor) -> Tensor:
        """[B, N, all ids], float32."""
        audio = self.config.audio
        all_BNV = hidden_BND.new_full((*steps_BN.shape, self.total), NEVER, dtype=torch.float32)
        is_audio_BN1 = steps_BN[..., None] >= 0
        if not bool(is_audio_BN1.all()):
            all_BNV[..., : self.first] = self.lm_head(hidden_BND).float().masked_fill(is_audio_BN1, NEVER)
        heard_BNKV = self.audio_head(hidden_BND).float().unflatten(-1, (-1, audio["outputs"]))
        next_BN1 = steps_BN[..., None] % self.books
        block_BN1 = next_BN1 if heard_BNKV.shape[2] > 1 else torch.zeros_like(next_BN1)
        of_block = block_BN1[..., None].expand(-1, -1, 1, audio["outputs"])
        heard_BNV = heard_BNKV.gather(2, of_block).squeeze(2)
        code_V = torch.arange(self.cardinality, device=hidden_BND.device)
        codes_BN1 = torch.tensor(audio["cardinalities"], device=hidden_BND.device)[next_BN1]
        played_BNV = heard_BNV[..., : self.cardinality].masked_fill(code_V >= codes_BN1, NEVER)
        played_BNV = all_BNV.scatter(2, self.first + block_BN1 * self.cardinality + code_V, played_BNV)
        all_BNV = torch.where(is_audio_BN1, played_BNV, all_BNV)
        if self.end is not None:  # between two frames, and no clip is empty
            may_BN1 = (next_BN1 == 0) & (steps_BN[..., None] > 0)
            all_BNV[..., self.end :] = heard_BNV[..., self.cardinality :].masked_fill(~may_BN1, NEVER)
        return all_BNV

    def codes(self, ids_N: Tensor) -> Tensor:
        """[T, K]: the codes of one sequence of ids, from its `start` to its `end`; of a last frame that is not whole,
        none."""
        ids = ids_N[int((ids_N == self.start).nonzero()[0]) + 1 :]
        if self.end is not None and bool((ids == self.end).any()):
            ids = ids[: int((ids == self.end).nonzero()[0])]
        ids_TK = ids[: len(ids) // self.books * self.books].view(-1, self.books)
        own = self.config.audio["vocabulary"] == "own"
        first_K = self.first + torch.arange(self.books, device=ids.device) * self.cardinality * own
        codes_TK = ids_TK - first_K
        if bool(((codes_TK < 0) | (codes_TK >= self.cardinality)).any()):
            raise ValueError("an id of another codebook stands among them: these are not ids that this model played")
        return codes_TK

    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        generating: Any = super()  # transformers types this method for its own classes
        inputs: dict[str, Any] = generating.prepare_inputs_for_generation(input_ids, *args, **kwargs)
        inputs["audio_steps"] = self.steps(input_ids)[:, -inputs["input_ids"].shape[1] :]
        return inputs
