"""The table of the request fields that OpenAI and other servers know: served here, refused, or ignored.

From it come the refusals (``unserved``) and docs/fields.md (tools/fields_page.py). A field that begins to be
served changes its standing here, on one line, and no longer needs harmless values.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple


class Standing(Enum):
    """The lot of a field: acted on, refused by name, or accepted without effect on the answer."""

    SERVED = "served"
    REFUSED = "refused"
    IGNORED = "ignored"


class Place(Enum):
    """The bodies that hold fields, and the messages inside them."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"
    MESSAGE = "messages[]"


class Field(NamedTuple):
    """A field with the servers that know it, the places where it stands, and its standing there."""

    name: str
    """inner fields behind a dot: stream_options.include_usage"""
    of: str
    """letters of ``SERVERS``"""
    places: tuple[Place, ...]
    standing: Standing
    harmless: tuple[Any, ...] = ()
    """values of a refused field that pass, because they ask for nothing; null always does"""
    instead: str = ""
    """the name or the route that serves what a refused field asks for"""


SERVERS: Final = {
    "O": "OpenAI",
    "V": "vLLM",
    "S": "SGLang",
    "T": "TGI",
    "L": "llama.cpp",
    "E": "entropick",
}
SERVED, REFUSED, IGNORED = Standing.SERVED, Standing.REFUSED, Standing.IGNORED
CHAT, TEXT = (Place.CHAT,), (Place.COMPLETIONS,)
BOTH: Final = (Place.CHAT, Place.COMPLETIONS)
TOKENS, DETOKENS, MESSAGE = (Place.TOKENIZE,), (Place.DETOKENIZE,), (Place.MESSAGE,)
TALK: Final = (Place.CHAT, Place.TOKENIZE)
ALL: Final = (Place.CHAT, Place.COMPLETIONS, Place.TOKENIZE, Place.DETOKENIZE)

FIELDS: Final[tuple[Field, ...]] = (
    # what is asked of which model, and how the answer travels
    Field("model", "OVSTL", ALL, SERVED),
    Field("entropick", "E", BOTH, SERVED),
    Field("messages", "OVSTL", TALK, SERVED),
    Field("prompt", "OVSTL", (*TEXT, *TOKENS), SERVED),
    Field("tokens", "VSL", DETOKENS, SERVED),
    Field("stream", "OVSTL", BOTH, SERVED),
    Field("stream_options", "OVSL", BOTH, SERVED),
    Field("stream_options.include_usage", "OVSL", BOTH, SERVED),
    Field("stream_options.continuous_usage_stats", "VS", BOTH, SERVED),
    Field("stream_options.include_obfuscation", "O", BOTH, REFUSED, (False,)),
    Field("n", "OVSTL", BOTH, SERVED),
    Field("best_of", "OVST", TEXT, SERVED),
    Field("best_of", "OVST", CHAT, REFUSED, (1,), "n, or /v1/completions"),
    Field("seed", "OVSTL", BOTH, SERVED),
    # accepted without effect
    Field("user", "OVS", BOTH, IGNORED),
    Field("metadata", "O", BOTH, IGNORED),
    Field("store", "O", BOTH, IGNORED),
    Field("service_tier", "O", BOTH, IGNORED),
    Field("reasoning_effort", "OVSL", BOTH, IGNORED),
    Field("verbosity", "O", BOTH, IGNORED),
    Field("safety_identifier", "O", BOTH, IGNORED),
    Field("prompt_cache_key", "O", BOTH, IGNORED),
    Field("prompt_cache_options", "O", BOTH, IGNORED),
    Field("prompt_cache_retention", "O", BOTH, IGNORED),
    # where an answer ends
    Field("max_tokens", "OVSTL", BOTH, SERVED),
    Field("max_completion_tokens", "OVSL", BOTH, SERVED),
    Field("stop", "OVSTL", BOTH, SERVED),
    Field("stop_token_ids", "VS", BOTH, SERVED),
    Field("ignore_eos", "VSL", BOTH, SERVED),
    Field("min_tokens", "VS", BOTH, SERVED),
    Field("include_stop_str_in_output", "V", BOTH, SERVED),
    Field("n_predict", "L", BOTH, REFUSED, (-1,), "max_tokens"),
    Field("max_new_tokens", "ST", BOTH, REFUSED, (), "max_tokens"),
    Field("min_new_tokens", "S", BOTH, REFUSED, (0,), "min_tokens"),
    Field("stop_sequences", "T", BOTH, REFUSED, ([],), "stop"),
    Field("stop_regex", "S", BOTH, REFUSED, ([],)),
    Field("no_stop_trim", "S", BOTH, REFUSED, (False,), "include_stop_str_in_output"),
    Field("n_indent", "L", BOTH, REFUSED, (0,)),
    Field("t_max_prompt_ms", "L", BOTH, REFUSED, (-1,)),
    Field("t_max_predict_ms", "L", BOTH, REFUSED, (-1,)),
    Field("repetition_detection", "V", BOTH, REFUSED),
    # how a token is picked
    Field("temperature", "OVSTL", BOTH, SERVED),
    Field("top_p", "OVSTL", BOTH, SERVED),
    Field("top_k", "VSTL", BOTH, SERVED),
    Field("min_p", "VSL", BOTH, SERVED),
    Field("frequency_penalty", "OVSTL", BOTH, SERVED),
    Field("presence_penalty", "OVSTL", BOTH, SERVED),
    Field("repetition_penalty", "VST", BOTH, SERVED),
    Field("logit_bias", "OVSL", BOTH, SERVED),
    Field("allowed_token_ids", "V", BOTH, SERVED),
    Field("bad_words", "V", BOTH, SERVED),
    Field("length_penalty", "V", BOTH, REFUSED, (1,)),
    Field("use_beam_search", "V", BOTH, REFUSED, (False,)),
    Field("logits_processors", "V", BOTH, REFUSED, ([],)),
    Field("custom_logit_processor", "S", BOTH, REFUSED),
    Field("custom_params", "S", BOTH, REFUSED, ({},)),
    Field("watermarking", "V", BOTH, REFUSED),
    Field("watermark", "T", BOTH, REFUSED, (False,)),
    Field("do_sample", "T", BOTH, REFUSED, (True,), "temperature"),
    Field("sampling_params", "S", BOTH, REFUSED, ({},), "its fields, outside of it"),
    Field("sampling_seed", "S", BOTH, REFUSED, (), "seed"),
    Field("typical_p", "TL", BOTH, REFUSED, (1,)),
    Field("tfs_z", "L", BOTH, REFUSED, (1,)),
    Field("top_n_sigma", "L", BOTH, REFUSED, (-1,), "entropick.policy"),
    Field("mirostat", "L", BOTH, REFUSED, (0,), "entropick.policy"),
    Field("mirostat_tau", "L", BOTH, REFUSED, (5,)),
    Field("mirostat_eta", "L", BOTH, REFUSED, (0.1,)),
    Field("dynatemp_range", "L", BOTH, REFUSED, (0,), "entropick.policy"),
    Field("dynatemp_exponent", "L", BOTH, REFUSED, (1,)),
    Field("adaptive_target", "L", BOTH, REFUSED, (-1,)),
    Field("adaptive_decay", "L", BOTH, REFUSED, (0.9,)),
    Field("repeat_penalty", "L", BOTH, REFUSED, (1,), "repetition_penalty"),
    Field("repeat_last_n", "L", BOTH, REFUSED, (64,)),
    Field("penalize_nl", "L", BOTH, REFUSED, (False,)),
    Field("penalty_prompt", "L", BOTH, REFUSED),
    Field("dry_multiplier", "L", BOTH, REFUSED, (0,)),
    Field("dry_base", "L", BOTH, REFUSED, (1.75,)),
    Field("dry_allowed_length", "L", BOTH, REFUSED, (2,)),
    Field("dry_penalty_last_n", "L", BOTH, REFUSED, (-1, 0)),
    Field("dry_sequence_breakers", "L", BOTH, REFUSED, (["\n", ":", '"', "*"],)),
    Field("xtc_probability", "L", BOTH, REFUSED, (0,)),
    Field("xtc_threshold", "L", BOTH, REFUSED, (0.1,)),
    Field("min_keep", "L", BOTH, REFUSED, (0,)),
    Field("samplers", "L", BOTH, REFUSED),
    Field("backend_sampling", "L", BOTH, REFUSED, (False,)),
    # what a reply may be
    Field("response_format", "OVSTL", BOTH, SERVED),
    Field("structured_outputs", "V", BOTH, SERVED),
    Field("structured_outputs.grammar", "V", BOTH, REFUSED),
    Field("structured_outputs.structural_tag", "V", BOTH, REFUSED),
    Field("structured_outputs.whitespace_pattern", "V", BOTH, REFUSED),
    Field("structured_outputs.disable_any_whitespace", "V", BOTH, REFUSED, (False,)),
    Field("structured_outputs.disable_additional_properties", "V", BOTH, REFUSED, (False,)),
    Field("structured_outputs.disable_fallback", "V", BOTH, REFUSED, (False,)),
    Field("guided_json", "V", BOTH, SERVED),
    Field("guided_regex", "V", BOTH, SERVED),
    Field("guided_choice", "V", BOTH, SERVED),
    Field("guided_grammar", "V", BOTH, REFUSED),
    Field("guided_decoding_backend", "V", BOTH, REFUSED),
    Field("guided_whitespace_pattern", "V", BOTH, REFUSED),
    Field("structural_tag", "VS", BOTH, REFUSED),
    Field("json_schema", "SL", BOTH, REFUSED, (), "response_format"),
    Field("regex", "S", BOTH, REFUSED, (), "structured_outputs.regex"),
    Field("ebnf", "S", BOTH, REFUSED),
    Field("grammar", "TL", BOTH, REFUSED, ("",)),
    Field("grammar_lazy", "L", BOTH, REFUSED, (False,)),
    Field("grammar_type", "L", BOTH, REFUSED),
    Field("grammar_triggers", "L", BOTH, REFUSED, ([],)),
    Field("preserved_tokens", "L", BOTH, REFUSED, ([],)),
    Field("prediction", "O", BOTH, REFUSED),
    Field("suffix", "OVS", BOTH, REFUSED, ("",)),
    # tools, and thinking
    Field("tools", "OVSTL", CHAT, SERVED),
    Field("tools", "OVSTL", TEXT, REFUSED, ([],)),
    Field("tools", "VSL", TOKENS, SERVED),
    Field("tool_choice", "OVSTL", CHAT, SERVED),
    Field("tool_choice", "OVSTL", TEXT, REFUSED, ("none", "auto")),
    Field("parallel_tool_calls", "OVSL", CHAT, SERVED),
    Field("parallel_tool_calls", "OVSL", TEXT, REFUSED, (True, False)),
    Field("functions", "O", BOTH, REFUSED, ([],), "tools"),
    Field("function_call", "O", BOTH, REFUSED, ("none", "auto"), "tool_choice"),
    Field("tool_prompt", "T", BOTH, REFUSED),
    Field("parse_tool_calls", "L", BOTH, REFUSED, (True,)),
    Field("web_search_options", "O", BOTH, REFUSED),
    Field("include_reasoning", "V", BOTH, REFUSED, (True,)),
    Field("separate_reasoning", "S", BOTH, REFUSED, (True,)),
    Field("stream_reasoning", "S", BOTH, REFUSED, (True,)),
    Field("reasoning", "S", BOTH, REFUSED, ({},)),
    Field("reasoning_format", "L", BOTH, REFUSED, ("none", "auto")),
    Field("reasoning_control", "L", BOTH, REFUSED, (False,)),
    Field("reasoning_budget_tokens", "L", BOTH, REFUSED, (-1,)),
    Field("thinking_budget_tokens", "L", BOTH, REFUSED, (-1,)),
    Field("thinking_forced_open", "L", BOTH, REFUSED, (False,)),
    Field("thinking_token_budget", "V", BOTH, REFUSED),
    # how a prompt is made
    Field("add_generation_prompt", "VL", TALK, SERVED),
    Field("continue_final_message", "VS", TALK, SERVED),
    Field("chat_template_kwargs", "VSL", TALK, SERVED),
    Field("chat_template_kwargs", "VSL", TEXT, REFUSED, ({},)),
    Field("chat_template", "VL", (*BOTH, *TOKENS), REFUSED, (), "the server's own --chat-template"),
    Field("documents", "V", BOTH, REFUSED, ([],)),
    Field("add_special_tokens", "VS", (*BOTH, *TOKENS), SERVED),
    Field("add_special", "L", TOKENS, REFUSED, (), "add_special_tokens"),
    Field("parse_special", "L", TOKENS, REFUSED, (True,)),
    Field("truncate_prompt_tokens", "V", BOTH, SERVED),
    Field("truncation_side", "V", BOTH, REFUSED),
    Field("truncate", "T", BOTH, REFUSED, (), "truncate_prompt_tokens"),
    Field("inputs", "T", (*BOTH, *TOKENS), REFUSED, (), "prompt"),
    Field("parameters", "T", BOTH, REFUSED, ({},), "its fields, outside of it"),
    Field("content", "L", TOKENS, REFUSED, (), "prompt"),
    Field("input_ids", "S", BOTH, REFUSED, (), "prompt of /v1/completions"),
    Field("prompt_embeds", "V", BOTH, REFUSED),
    Field("input_prefix", "L", BOTH, REFUSED, ("",)),
    Field("input_suffix", "L", BOTH, REFUSED, ("",)),
    Field("input_extra", "L", BOTH, REFUSED, ([],)),
    Field("system_prompt", "L", BOTH, REFUSED, ("",)),
    Field("guideline", "T", BOTH, REFUSED),
    Field("task", "S", BOTH, REFUSED),
    Field("generation_prompt", "L", BOTH, REFUSED, ("",)),
    Field("chat_format", "L", BOTH, REFUSED),
    Field("chat_parser", "L", BOTH, REFUSED),
    Field("n_keep", "L", BOTH, REFUSED, (0, -1)),
    Field("n_discard", "L", BOTH, REFUSED, (0,)),
    # images and sound
    Field("audio", "O", BOTH, REFUSED),
    Field("modalities", "O", BOTH, REFUSED, (["text"],)),
    Field("moderation", "O", BOTH, REFUSED),
    Field("image_data", "SL", BOTH, REFUSED, ([],)),
    Field("multimodal_data", "L", BOTH, REFUSED, ([],)),
    Field("mm_processor_kwargs", "V", (*BOTH, *TOKENS), REFUSED, ({},)),
    Field("media_io_kwargs", "V", (*BOTH, *TOKENS), REFUSED, ({},)),
    Field("mm_payload", "V", BOTH, REFUSED, ("tensors",)),
    Field("return_mm_kwargs", "V", BOTH, REFUSED, (False,)),
    Field("images_config", "S", BOTH, REFUSED, ({},)),
    Field("max_dynamic_patch", "S", BOTH, REFUSED),
    Field("min_dynamic_patch", "S", BOTH, REFUSED),
    Field("use_audio_in_video", "S", BOTH, REFUSED, (False,)),
    # what an answer tells
    Field("logprobs", "OVSTL", BOTH, SERVED),
    Field("top_logprobs", "OVSTL", CHAT, SERVED),
    Field("top_logprobs", "OVSTL", TEXT, REFUSED, (0,), "logprobs"),
    Field("echo", "OVS", TEXT, SERVED),
    Field("echo", "VS", CHAT, REFUSED, (False,), "prompt_logprobs, or /v1/completions"),
    Field("prompt_logprobs", "V", BOTH, SERVED),
    Field("logprob_token_ids", "V", BOTH, REFUSED, ([],)),
    Field("skip_special_tokens", "VS", BOTH, SERVED),
    Field("skip_special_tokens", "S", DETOKENS, REFUSED, (False,)),
    Field("spaces_between_special_tokens", "VS", BOTH, REFUSED, (True, False)),
    Field("return_token_strs", "V", TOKENS, SERVED),
    Field("with_pieces", "L", TOKENS, REFUSED, (False,), "return_token_strs"),
    Field("return_token_ids", "VS", BOTH, SERVED),
    Field("return_tokens_as_token_ids", "V", BOTH, SERVED),
    Field("return_prompt_token_ids", "S", BOTH, REFUSED, (False,), "return_token_ids"),
    Field("return_prompt_text", "V", BOTH, REFUSED, (False,)),
    Field("return_token_offsets", "V", BOTH, REFUSED, (False,)),
    Field("return_tokens", "L", BOTH, REFUSED, (False,), "return_token_ids"),
    Field("return_full_text", "T", BOTH, REFUSED, (False,), "echo"),
    Field("return_meta_info", "S", BOTH, REFUSED, (False,)),
    Field("return_cached_tokens_details", "S", BOTH, REFUSED, (False,)),
    Field("return_hidden_states", "S", BOTH, REFUSED, (False,)),
    Field("return_routed_experts", "S", BOTH, REFUSED, (False,)),
    Field("routed_experts_start_len", "S", BOTH, REFUSED, (0,)),
    Field("routed_experts_prompt_start", "V", BOTH, REFUSED, (0,)),
    Field("return_logprob", "S", BOTH, REFUSED, (False,), "logprobs"),
    Field("logprob_start_len", "S", BOTH, REFUSED, (-1,), "prompt_logprobs"),
    Field("top_logprobs_num", "S", BOTH, REFUSED, (0,), "top_logprobs"),
    Field("token_ids_logprob", "S", BOTH, REFUSED, ([],), "logprob_token_ids"),
    Field("return_progress", "L", BOTH, REFUSED, (False,)),
    Field("n_probs", "L", BOTH, REFUSED, (0,), "logprobs"),
    Field("post_sampling_probs", "L", BOTH, REFUSED, (False,), "entropick.telemetry"),
    Field("top_n_tokens", "T", BOTH, REFUSED, (0,), "top_logprobs"),
    Field("details", "T", BOTH, REFUSED, (False,), "entropick.telemetry"),
    Field("decoder_input_details", "T", BOTH, REFUSED, (False,), "prompt_logprobs"),
    Field("response_fields", "L", BOTH, REFUSED, ([],)),
    Field("timings_per_token", "L", BOTH, REFUSED, (False,)),
    Field("verbose", "L", BOTH, REFUSED, (False,)),
    Field("stream_interval", "V", BOTH, REFUSED, (1,)),
    Field("sse_ping_interval", "L", BOTH, REFUSED),
    # adapters, caches, scheduling, several machines
    Field("lora_path", "S", BOTH, REFUSED, ("", [])),
    Field("lora_request", "V", BOTH, REFUSED),
    Field("lora", "L", BOTH, REFUSED, ([],)),
    Field("adapter_id", "T", BOTH, REFUSED),
    Field("request_id", "V", BOTH, REFUSED, (), "the header X-Request-Id"),
    Field("rid", "S", BOTH, REFUSED, (), "the header X-Request-Id"),
    Field("session_id", "VS", BOTH, REFUSED),
    Field("session_params", "S", BOTH, REFUSED, ({},)),
    Field("cache_salt", "VS", BOTH, REFUSED),
    Field("extra_key", "S", BOTH, REFUSED),
    Field("cache_prompt", "L", BOTH, REFUSED, (True,)),
    Field("n_cache_reuse", "L", BOTH, REFUSED, (0,)),
    Field("id_slot", "L", BOTH, REFUSED, (-1,)),
    Field("n_cmpl", "L", BOTH, REFUSED, (1,), "n"),
    Field("priority", "VS", BOTH, REFUSED, (0,)),
    Field("vllm_xargs", "V", BOTH, REFUSED, ({},), "entropick"),
    Field("kv_transfer_params", "V", BOTH, REFUSED),
    Field("ec_transfer_params", "V", BOTH, REFUSED),
    Field("ngram_corpus_id", "S", BOTH, REFUSED),
    Field("custom_labels", "S", BOTH, REFUSED, ({},)),
    Field("bootstrap_host", "S", BOTH, REFUSED),
    Field("bootstrap_port", "S", BOTH, REFUSED),
    Field("bootstrap_room", "S", BOTH, REFUSED),
    Field("routed_dp_rank", "S", BOTH, REFUSED),
    Field("data_parallel_rank", "S", BOTH, REFUSED),
    Field("disagg_prefill_dp_rank", "S", BOTH, REFUSED),
    Field("speculative.n_max", "L", BOTH, REFUSED),
    Field("speculative.n_min", "L", BOTH, REFUSED),
    Field("speculative.p_min", "L", BOTH, REFUSED),
    # inside a message
    Field("role", "OVSTL", MESSAGE, SERVED),
    Field("content", "OVSTL", MESSAGE, SERVED),
    Field("name", "OVSTL", MESSAGE, SERVED),
    Field("refusal", "O", MESSAGE, SERVED),
    Field("annotations", "O", MESSAGE, IGNORED),
    Field("tool_calls", "OVSTL", MESSAGE, SERVED),
    Field("tool_call_id", "OVSTL", MESSAGE, SERVED),
    Field("function_call", "O", MESSAGE, REFUSED),
    Field("reasoning_content", "VSL", MESSAGE, SERVED),
    Field("reasoning", "V", MESSAGE, REFUSED, ("",), "reasoning_content"),
    Field("audio", "O", MESSAGE, REFUSED),
    Field("tools", "S", MESSAGE, REFUSED, ([],)),
)
"""every field, in groups; a row of its own for each standing that a name has somewhere"""
