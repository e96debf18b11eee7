// tokenjoule_llama.hpp: a llama.cpp context as a TokenJoule engine. Header-only, C++17.
//
// llama_adapter runs the whole generation (chat template, prompt cache, prefill, decode, sampling) and tells
// TokenJoule about it as it happens, so that each call becomes one record: tokens, TTFT, inter-token latencies and
// outcome.
//
//   tokenjoule::llama_adapter adapter(context);             // a llama_context that you made and keep
//   tj_engine engine = adapter.engine();
//   tj_instrumented_generate(&engine, &request, &result, &error);   // result.content is the answer
//
// WHAT OF THE REQUEST IS USED. messages; temperature (0: greedy, otherwise softmax sampling at that temperature);
// max_tokens (0: until the model stops or the context is full). extra_json is not looked at.
//
// WHAT THE RESULT HOLDS. content, prompt_tokens (the whole prompt), cached_tokens (its head, found in the KV cache),
// prompt_tokens_evaluated (what was really decoded), completion_tokens (every sampled token, the one that ends the
// generation included, as in llama.cpp's own timings), finish_reason ("stop", "length", "cancelled"), error_type. All
// of it is filled for failed and cancelled calls too, as far as they got. When the context and not max_tokens cut the
// answer short, finish_reason is "length" and metadata_json {"stopped_by":"context"}. Times are left to the library.
//
// OWNERSHIP. The adapter borrows the context, which must outlive it, and has sequence 0 of its KV cache for itself.
// content is the adapter's memory, valid until the next call. It holds the pieces' bytes as the model made them, which
// need not be valid UTF-8 and may hold a NUL: content() gives them with their length.
//
// THREADS. One generation at a time per adapter; a second one that comes meanwhile is refused (llama_error_busy).
// cancel() may be called from any thread. During a call the context's abort callback is the adapter's; afterwards it
// is none. No exception leaves the callback: each becomes an error code.
//
// ERRORS. What the engine callback returns, tj_error.engine_code, and the record's error_type:
//
//     code  error_type          what happened
//     ----  ------------------  --------------------------------------------------------------------------------
//        0                      done
//        1  kv_cache_full       llama_decode: no free KV slot for the batch
//        2  cancelled           stopped by tj_call_cancel, cancel() or on_piece; recorded as TJ_OUTCOME_CANCELLED
//       -1  bad_batch           llama_decode: invalid batch
//     < -1  decode_failed       llama_decode: fatal; the code is llama.cpp's
//      100  invalid_request     no messages, or a temperature that is negative or not finite
//      101  chat_template       llama.cpp does not know the model's chat template (name one in chat_template), or
//                               the prompt is longer than 2 GiB
//      102  tokenize            the prompt gave no tokens
//      103  context_overflow    the prompt is longer than the context
//      104  out_of_memory       std::bad_alloc
//      105  exception           on_piece (or anything else here) threw
//      106  busy                another generation is running on this adapter
//
// After any of them the adapter is ready for the next call; what is in the KV cache stays usable.
#ifndef TOKENJOULE_LLAMA_HPP
#define TOKENJOULE_LLAMA_HPP

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <llama.h>

#include "tokenjoule.h"

namespace tokenjoule {

enum llama_error : std::int32_t {
  llama_error_none = 0,
  llama_error_kv_cache_full = 1,  // 1, 2 and the negative ones are llama_decode's own
  llama_error_cancelled = 2,
  llama_error_bad_batch = -1,
  llama_error_invalid_request = 100,
  llama_error_chat_template = 101,
  llama_error_tokenize = 102,
  llama_error_context_overflow = 103,
  llama_error_out_of_memory = 104,
  llama_error_exception = 105,
  llama_error_busy = 106,
};

// The error_type of a code; static. "" for 0.
inline const char *llama_error_type(std::int32_t code) noexcept {
  switch (code) {
    case llama_error_none: return "";
    case llama_error_kv_cache_full: return "kv_cache_full";
    case llama_error_cancelled: return "cancelled";
    case llama_error_bad_batch: return "bad_batch";
    case llama_error_invalid_request: return "invalid_request";
    case llama_error_chat_template: return "chat_template";
    case llama_error_tokenize: return "tokenize";
    case llama_error_context_overflow: return "context_overflow";
    case llama_error_out_of_memory: return "out_of_memory";
    case llama_error_exception: return "exception";
    case llama_error_busy: return "busy";
    default: return "decode_failed";
  }
}

struct llama_options {
  std::string engine_id = "llama.cpp";       // how records name the engine
  std::string chat_template;                 // "": the model's own, or ChatML for a model without one
  std::uint32_t seed = LLAMA_DEFAULT_SEED;   // of sampling at temperature > 0; the default draws a new one per call
  bool ignore_eog = false;                   // never sample an end of generation: fixed lengths, for benchmarks
  // Gets each piece of text as it is made (bytes, see OWNERSHIP), on the generating thread. false: stop, as cancel().
  std::function<bool(std::string_view piece)> on_piece;
};

class llama_adapter {
 public:
  // Throws std::invalid_argument for a context that cannot generate (no KV cache, or an encoder-decoder model).
  explicit llama_adapter(llama_context *context, llama_options options = {})
      : context_(context), options_(std::move(options)) {
    if (context == nullptr) throw std::invalid_argument("llama_adapter: context is NULL");
    model_ = llama_get_model(context);
    vocabulary_ = llama_model_get_vocab(model_);
    if (llama_get_memory(context) == nullptr || llama_model_has_encoder(model_))
      throw std::invalid_argument("llama_adapter: the model is not a decoder-only language model");
  }
  llama_adapter(const llama_adapter &) = delete;  // the engine holds its address
  llama_adapter &operator=(const llama_adapter &) = delete;

  // For tj_instrumented_generate; valid as long as the adapter.
  tj_engine engine() {
    tj_engine engine = TJ_ENGINE_INIT;
    engine.engine_id = options_.engine_id.c_str();
    engine.generate = &llama_adapter::generate;
    engine.engine_data = this;
    return engine;
  }

  // To be changed between calls only.
  llama_options &options() { return options_; }

  // The last answer; valid until the next call.
  std::string_view content() const { return content_; }

  // Asks the generation in progress to stop. Any thread; false if there is none.
  bool cancel() {
    const std::lock_guard<std::mutex> lock(call_mutex_);
    if (call_ != nullptr) tj_call_cancel(call_);
    return call_ != nullptr;
  }

  // Forgets the cached prompt. Not during a call.
  void clear_cache() {
    cached_.clear();
    llama_memory_seq_rm(llama_get_memory(context_), sequence, -1, -1);
  }

 private:
  static constexpr llama_seq_id sequence = 0;  // the one that llama_batch_get_one uses

  // How far a generation came; outlives an exception in its middle.
  struct progress {
    std::uint64_t prompt = 0, evaluated = 0, cached = 0, completion = 0;
    const char *finish_reason = nullptr, *metadata = nullptr;
  };

  // The call that cancel() and the abort callback act on, for as long as it may be touched.
  class current_call {
   public:
    current_call(llama_adapter &adapter, tj_call *call) : adapter_(adapter) {
      llama_set_abort_callback(adapter_.context_, tj_call_cancelled, call);
      set(call);
    }
    ~current_call() {
      set(nullptr);
      llama_set_abort_callback(adapter_.context_, nullptr, nullptr);
    }
    current_call(const current_call &) = delete;
    current_call &operator=(const current_call &) = delete;

   private:
    void set(tj_call *call) {
      const std::lock_guard<std::mutex> lock(adapter_.call_mutex_);
      adapter_.call_ = call;
    }
    llama_adapter &adapter_;
  };

  struct sampler_free {
    void operator()(llama_sampler *sampler) const { llama_sampler_free(sampler); }
  };
  using sampler_ptr = std::unique_ptr<llama_sampler, sampler_free>;

  // The tj_generate_fn.
  static std::int32_t generate(void *engine_data, const tj_generate_request *request, tj_call *call,
                               tj_generate_result *result) noexcept {
    llama_adapter &self = *static_cast<llama_adapter *>(engine_data);
    progress made;
    std::int32_t code = llama_error_busy;
    if (!self.running_.exchange(true)) {
      self.content_.clear();
      try {
        const current_call current(self, call);
        code = self.run(*request, call, made);
      } catch (const std::bad_alloc &) {
        code = llama_error_out_of_memory;
      } catch (...) {
        code = llama_error_exception;
      }
      result->content = self.content_.c_str();
      self.running_.store(false);
    }
    if (code == llama_error_cancelled) made.finish_reason = "cancelled";
    result->prompt_tokens = made.prompt;
    result->prompt_tokens_evaluated = made.evaluated;
    result->cached_tokens = made.cached;
    result->completion_tokens = made.completion;
    result->finish_reason = made.finish_reason;
    result->metadata_json = made.metadata;
    result->error_type = code == llama_error_none ? nullptr : llama_error_type(code);
    return code;
  }

  std::int32_t run(const tj_generate_request &request, tj_call *call, progress &made) {
    if (request.message_count == 0 || request.messages == nullptr) return llama_error_invalid_request;
    if (!std::isfinite(request.temperature) || request.temperature < 0) return llama_error_invalid_request;

    std::string text;
    std::vector<llama_token> prompt;
    if (!apply_template(request, text)) return llama_error_chat_template;
    if (!tokenize(text, prompt)) return llama_error_tokenize;
    made.prompt = prompt.size();
    const std::size_t capacity = llama_n_ctx_seq(context_);
    if (prompt.size() > capacity) return llama_error_context_overflow;
    const sampler_ptr sampler = make_sampler(request.temperature);

    made.cached = keep_shared_prefix(prompt);
    tj_call_prompt(call, made.prompt, made.cached);
    const std::size_t batch = llama_n_batch(context_);
    while (cached_.size() < prompt.size()) {
      // Here as well as in the abort callback, which only the CPU backend calls.
      if (tj_call_cancelled(call)) return llama_error_cancelled;
      const std::size_t count = std::min(batch, prompt.size() - cached_.size());
      if (const std::int32_t code = decode(prompt.data() + cached_.size(), count)) return code;
      made.evaluated += count;
    }

    const std::uint64_t limit =
        request.max_tokens != 0 ? request.max_tokens : std::numeric_limits<std::uint64_t>::max();
    for (;;) {
      // Sampling reads the logits and so waits for the device: only after it has the token come into being.
      llama_token token = llama_sampler_sample(sampler.get(), context_, -1);
      tj_call_tokens(call, 1);
      ++made.completion;
      if (llama_vocab_is_eog(vocabulary_, token)) {
        made.finish_reason = "stop";
        return llama_error_none;
      }
      if (!emit(token)) tj_call_cancel(call);
      if (tj_call_cancelled(call)) return llama_error_cancelled;
      const bool context_full = cached_.size() >= capacity;
      if (made.completion >= limit || context_full) {
        made.finish_reason = "length";
        if (made.completion < limit) made.metadata = R"({"stopped_by":"context"})";
        return llama_error_none;
      }
      if (const std::int32_t code = decode(&token, 1)) return code;
    }
  }

  bool apply_template(const tj_generate_request &request, std::string &text) const {
    std::vector<llama_chat_message> messages(request.message_count);
    std::size_t guess = 256;
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const tj_message &message = request.messages[i];
      messages[i].role = message.role != nullptr ? message.role : "";
      messages[i].content = message.content != nullptr ? message.content : "";
      guess += 64 + std::strlen(messages[i].role) + std::strlen(messages[i].content);
    }
    const char *chat_template = options_.chat_template.c_str();
    if (options_.chat_template.empty()) {
      const char *own = llama_model_chat_template(model_, nullptr);
      chat_template = own != nullptr ? own : "chatml";
    }
    for (;;) {
      if (guess > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) return false;
      text.resize(guess);
      const std::int32_t length = llama_chat_apply_template(chat_template, messages.data(), messages.size(), true,
                                                            text.data(), static_cast<std::int32_t>(text.size()));
      if (length < 0) return false;
      const bool fitted = static_cast<std::size_t>(length) <= text.size();
      guess = static_cast<std::size_t>(length);
      if (fitted) break;
    }
    text.resize(guess);
    return true;
  }

  // Special tokens are parsed, since the template is made of them; so they are in the messages' text too.
  bool tokenize(const std::string &text, std::vector<llama_token> &tokens) const {
    const auto length = static_cast<std::int32_t>(text.size());
    tokens.resize(text.size() + 8);
    std::int32_t count = llama_tokenize(vocabulary_, text.data(), length, tokens.data(),
                                        static_cast<std::int32_t>(tokens.size()), true, true);
    if (count < 0 && count != std::numeric_limits<std::int32_t>::min()) {
      tokens.resize(static_cast<std::size_t>(-count));
      count = llama_tokenize(vocabulary_, text.data(), length, tokens.data(), -count, true, true);
    }
    if (count <= 0) return false;
    tokens.resize(static_cast<std::size_t>(count));
    return true;
  }

  // Cuts the KV cache back to what it shares with the prompt and says how much that is.
  std::size_t keep_shared_prefix(const std::vector<llama_token> &prompt) {
    const llama_memory_t memory = llama_get_memory(context_);
    // Never more than is really there: somebody may have cleared the context's memory between two calls.
    const auto held = static_cast<std::size_t>(llama_memory_seq_pos_max(memory, sequence) + 1);
    if (held < cached_.size()) cached_.resize(held);
    const auto end = std::mismatch(cached_.begin(), cached_.end(), prompt.begin(), prompt.end()).first;
    // The last token is always decoded again: its logits, which sampling needs, are not kept.
    std::size_t shared = std::min(static_cast<std::size_t>(end - cached_.begin()), prompt.size() - 1);

    // With a sliding window the cache has dropped old positions; those that the next token looks at must be there.
    const std::int64_t window = llama_model_n_swa(model_);
    if (window > 0) {
      const std::int64_t first = std::max<std::int64_t>(0, static_cast<std::int64_t>(shared) - window);
      if (llama_memory_seq_pos_min(memory, sequence) > first) shared = 0;
    }
    // A recurrent model cannot go back part of the way; removing everything always works.
    if (shared == 0 || !llama_memory_seq_rm(memory, sequence, static_cast<llama_pos>(shared), -1)) {
      llama_memory_seq_rm(memory, sequence, -1, -1);
      shared = 0;
    }
    cached_.resize(shared);
    return shared;
  }

  // After a failure the KV cache may hold more than cached_ says, never less; the next call cuts that off.
  std::int32_t decode(llama_token *tokens, std::size_t count) {
    cached_.reserve(cached_.size() + count);
    const std::int32_t code = llama_decode(context_, llama_batch_get_one(tokens, static_cast<std::int32_t>(count)));
    if (code == 0) cached_.insert(cached_.end(), tokens, tokens + count);
    return code;
  }

  sampler_ptr make_sampler(double temperature) const {
    llama_sampler_chain_params params = llama_sampler_chain_default_params();
    params.no_perf = true;
    sampler_ptr chain(llama_sampler_chain_init(params));
    const auto add = [&chain](llama_sampler *sampler) { llama_sampler_chain_add(chain.get(), sampler); };
    if (options_.ignore_eog) {
      const std::int32_t size = llama_vocab_n_tokens(vocabulary_);
      std::vector<llama_logit_bias> never;
      for (llama_token token = 0; token < size; ++token)
        if (llama_vocab_is_eog(vocabulary_, token)) never.push_back({token, -INFINITY});
      add(llama_sampler_init_logit_bias(size, static_cast<std::int32_t>(never.size()), never.data()));
    }
    if (temperature == 0) {
      add(llama_sampler_init_greedy());
    } else {
      add(llama_sampler_init_temp(static_cast<float>(temperature)));
      add(llama_sampler_init_dist(options_.seed));
    }
    return chain;
  }

  // Appends the token's bytes to the answer and hands them on; false if the receiver wants no more.
  bool emit(llama_token token) {
    piece_.resize(std::max<std::size_t>(piece_.capacity(), 64));
    std::int32_t length = to_piece(token);
    if (length < 0) {
      piece_.resize(static_cast<std::size_t>(-length));
      length = to_piece(token);
    }
    const std::string_view piece(piece_.data(), static_cast<std::size_t>(std::max(length, 0)));
    content_.append(piece);
    return piece.empty() || !options_.on_piece || options_.on_piece(piece);
  }

  std::int32_t to_piece(llama_token token) {
    return llama_token_to_piece(vocabulary_, token, piece_.data(), static_cast<std::int32_t>(piece_.size()), 0, false);
  }

  llama_context *const context_;
  llama_options options_;
  const llama_model *model_ = nullptr;
  const llama_vocab *vocabulary_ = nullptr;
  std::vector<llama_token> cached_;  // what the KV cache certainly holds of our sequence, from position 0
  std::string content_, piece_;

  std::atomic<bool> running_{false};
  std::mutex call_mutex_;
  tj_call *call_ = nullptr;  // guarded by call_mutex_
};

}  // namespace tokenjoule

#endif
