// adapter_test.cpp: what tokenjoule_llama.hpp promises, on the tiny model: `adapter_test TINY.gguf`.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "demo_tables.hpp"
#include "tokenjoule_llama.hpp"

namespace {

using demo::finished_call;
using tokenjoule::llama_adapter;

int passed = 0, failed = 0;

void expect_at(int line, bool holds, const char *what, const std::string &saw) {
  ++(holds ? passed : failed);
  if (!holds) std::printf("adapter_test.cpp:%d: failed: %s (saw %s)\n", line, what, saw.c_str());
}
std::string shown(const std::string &value) { return "'" + value + "'"; }
std::string shown(const char *value) { return value != nullptr ? shown(std::string(value)) : "NULL"; }
template <typename T>
std::string shown(T value) { return std::to_string(value); }
template <typename A, typename B>
void expect_equal_at(int line, const A &is, const B &should, const char *what) {
  expect_at(line, is == should, what, shown(is));
}
#define EXPECT(condition, saw) expect_at(__LINE__, (condition), #condition, shown(saw))
#define EXPECT_EQUAL(is, should) expect_equal_at(__LINE__, (is), (should), #is " == " #should)

// The bus's record of the latest call, failed ones included.
std::unique_ptr<finished_call> record;

// One context with one adapter; ask() is one call.
class session {
 public:
  struct shape {
    std::uint32_t context = 1024, batch = 512, sequences = 1;
    ggml_backend_sched_eval_callback cb_eval = nullptr;  // called in the middle of llama_decode
    void *cb_eval_user_data = nullptr;
  };
  explicit session(llama_model *model) : session(model, shape{}) {}
  session(llama_model *model, const shape &how) : context(make(model, how)), adapter(context.get()) {}

  // The engine's code; 0 if the call went well.
  std::int32_t ask(const std::string &question, std::uint32_t max_tokens = 24, double temperature = 0) {
    const tj_message messages[] = {{"system", "You are brief."}, {"user", question.c_str()}};
    tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
    request.model = "tiny";
    request.messages = messages;
    request.message_count = 2;
    request.max_tokens = max_tokens;
    request.temperature = temperature;
    return send(request);
  }

  std::int32_t send(const tj_generate_request &request) {
    const tj_engine engine = adapter.engine();
    result = TJ_GENERATE_RESULT_INIT;
    tj_error error{};
    record.reset();
    const tj_status status = tj_instrumented_generate(&engine, &request, &result, &error);
    if (status != TJ_OK && status != TJ_ERR_ENGINE) throw std::runtime_error(error.message);
    return status == TJ_OK ? 0 : error.engine_code;
  }

  std::string text() const { return std::string(adapter.content()); }

  std::unique_ptr<llama_context, void (*)(llama_context *)> context;
  llama_adapter adapter;
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;

 private:
  static std::unique_ptr<llama_context, void (*)(llama_context *)> make(llama_model *model, const shape &how) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = how.context;
    params.n_batch = how.batch;
    params.n_seq_max = how.sequences;
    params.kv_unified = true;  // with several sequences, they compete for the same cells
    params.n_threads = params.n_threads_batch = 1;
    params.cb_eval = how.cb_eval;
    params.cb_eval_user_data = how.cb_eval_user_data;
    llama_context *context = llama_init_from_model(model, params);
    if (context == nullptr) throw std::runtime_error("no context");
    return {context, llama_free};
  }
};

const std::string question = "Why is the answer to this question so long that it needs a story?";

// ---- answers --------------------------------------------------------------------------------------------------------

void the_cache_changes_the_work_and_not_the_answer(llama_model *model) {
  session s(model);
  EXPECT_EQUAL(s.ask(question), 0);
  const std::string fresh = s.text();
  const std::uint64_t prompt = s.result.prompt_tokens;
  EXPECT(!fresh.empty(), fresh);
  EXPECT_EQUAL(s.result.cached_tokens, 0u);
  EXPECT_EQUAL(s.result.prompt_tokens_evaluated, prompt);

  EXPECT_EQUAL(s.ask(question), 0);  // all of it is there, but the last token's logits are not
  EXPECT_EQUAL(s.text(), fresh);
  EXPECT_EQUAL(s.result.cached_tokens, prompt - 1);
  EXPECT_EQUAL(s.result.prompt_tokens_evaluated, 1u);
  EXPECT_EQUAL(record->cached_tokens, prompt - 1);
  EXPECT_EQUAL(record->prompt_tokens_evaluated, 1u);

  EXPECT_EQUAL(s.ask("Hello!"), 0);  // shares the system prompt only
  EXPECT(s.result.cached_tokens > 0 && s.result.cached_tokens < s.result.prompt_tokens - 1, s.result.cached_tokens);
  EXPECT_EQUAL(s.ask(question), 0);
  EXPECT_EQUAL(s.text(), fresh);

  llama_memory_clear(llama_get_memory(s.context.get()), true);  // behind the adapter's back
  EXPECT_EQUAL(s.ask(question), 0);
  EXPECT_EQUAL(s.text(), fresh);
  EXPECT_EQUAL(s.result.cached_tokens, 0u);

  s.adapter.clear_cache();
  EXPECT_EQUAL(s.ask(question), 0);
  EXPECT_EQUAL(s.result.cached_tokens, 0u);

  session narrow(model, {1024, 32, 1});  // the prompt takes several batches
  EXPECT_EQUAL(narrow.ask(question), 0);
  EXPECT_EQUAL(narrow.text(), fresh);
  EXPECT_EQUAL(narrow.result.prompt_tokens_evaluated, prompt);
}

void an_answer_ends_by_itself_or_at_a_limit(llama_model *model) {
  session s(model);
  s.adapter.options().ignore_eog = true;
  EXPECT_EQUAL(s.ask(question, 1), 0);
  EXPECT_EQUAL(s.result.completion_tokens, 1u);
  EXPECT_EQUAL(record->finish_reason, "length");
  EXPECT_EQUAL(s.ask(question, 40), 0);
  EXPECT_EQUAL(s.result.completion_tokens, 40u);
  EXPECT_EQUAL(record->completion_tokens, 40u);
  EXPECT(s.result.metadata_json == nullptr, s.result.metadata_json);  // max_tokens it was

  EXPECT_EQUAL(s.ask(question, 0), 0);  // no limit: until the context is full
  EXPECT_EQUAL(record->finish_reason, "length");
  EXPECT_EQUAL(s.result.completion_tokens, 1024 - s.result.prompt_tokens + 1);
  EXPECT_EQUAL(std::string(s.result.metadata_json), "{\"stopped_by\":\"context\"}");

  s.adapter.options().ignore_eog = false;
  s.adapter.options().seed = 1;
  EXPECT_EQUAL(s.ask(question, 0, 1.0), 0);
  EXPECT_EQUAL(record->finish_reason, "stop");
}

void a_seed_makes_sampling_repeatable(llama_model *model) {
  session s(model);
  const auto sample = [&](std::uint32_t seed) {
    s.adapter.options().seed = seed;
    EXPECT_EQUAL(s.ask(question, 24, 1.5), 0);
    return s.text();
  };
  const std::string one = sample(1);
  EXPECT_EQUAL(sample(1), one);
  EXPECT(sample(2) != one, one);
}

void pieces_are_the_answer(llama_model *model) {
  session s(model);
  std::string pieces;
  s.adapter.options().on_piece = [&](std::string_view piece) {
    pieces += piece;
    return true;
  };
  EXPECT_EQUAL(s.ask(question, 200, 3.0), 0);  // so hot that there are bytes among them that are no UTF-8
  EXPECT_EQUAL(pieces, s.text());
  EXPECT_EQUAL(std::string(s.result.content), std::string(pieces.c_str()));
}

// ---- cancelling -----------------------------------------------------------------------------------------------------

void a_call_can_be_stopped(llama_model *model) {
  session s(model);
  EXPECT_EQUAL(s.ask(question), 0);
  const std::string fresh = s.text();
  EXPECT(!s.adapter.cancel(), 1);  // nothing is running

  int pieces = 0;
  s.adapter.options().on_piece = [&](std::string_view) { return ++pieces < 3; };
  EXPECT_EQUAL(s.ask(question), tokenjoule::llama_error_cancelled);
  EXPECT_EQUAL(record->outcome, static_cast<std::uint32_t>(TJ_OUTCOME_CANCELLED));
  EXPECT_EQUAL(record->completion_tokens, 3u);
  EXPECT_EQUAL(record->error_type, "cancelled");
  EXPECT_EQUAL(record->finish_reason, "cancelled");

  s.adapter.options().on_piece = nullptr;
  EXPECT_EQUAL(s.ask(question), 0);
  EXPECT_EQUAL(s.text(), fresh);

  // From another thread at many moments, in prefill too; whatever is left in the KV cache must not spoil the next call.
  std::string filler;
  for (int i = 0; i < 100; ++i) filler += "answer ";
  for (int delay = 0; delay < 20; ++delay) {
    std::thread other([&] {
      while (!s.adapter.cancel()) std::this_thread::yield();
    });
    std::this_thread::sleep_for(std::chrono::microseconds(delay * 100));
    s.adapter.options().ignore_eog = true;
    EXPECT_EQUAL(s.ask(std::to_string(delay) + filler, 0), tokenjoule::llama_error_cancelled);
    other.join();
    s.adapter.options().ignore_eog = false;
    EXPECT_EQUAL(record->prompt_tokens_evaluated + record->cached_tokens <= record->prompt_tokens, true);
    EXPECT_EQUAL(s.ask(question), 0);
    EXPECT_EQUAL(s.text(), fresh);
  }
}

void a_batch_is_aborted_in_its_middle(llama_model *model) {
  llama_adapter *to_cancel = nullptr;
  const auto cancel = [](ggml_tensor *, bool, void *pointer) {
    llama_adapter *&adapter = *static_cast<llama_adapter **>(pointer);
    if (adapter != nullptr) adapter->cancel();
    return true;
  };
  session s(model, {1024, 512, 1, cancel, &to_cancel});
  EXPECT_EQUAL(s.ask(question), 0);
  const std::string fresh = s.text();
  s.adapter.clear_cache();

  to_cancel = &s.adapter;
  EXPECT_EQUAL(s.ask(question), tokenjoule::llama_error_cancelled);
  EXPECT_EQUAL(record->outcome, static_cast<std::uint32_t>(TJ_OUTCOME_CANCELLED));
  EXPECT_EQUAL(llama_memory_seq_pos_max(llama_get_memory(s.context.get()), 0), -1);  // llama_decode did not finish
  EXPECT_EQUAL(record->completion_tokens, TJ_UNKNOWN);  // none was made, none was told of

  to_cancel = nullptr;
  llama_token token = 300;
  EXPECT_EQUAL(llama_decode(s.context.get(), llama_batch_get_one(&token, 1)), 0);  // no abort callback is left behind
  EXPECT_EQUAL(s.ask(question), 0);
  EXPECT_EQUAL(s.text(), fresh);
}

// ---- the error table ------------------------------------------------------------------------------------------------

void each_failure_has_its_code(llama_model *model) {
  session s(model);
  EXPECT_EQUAL(s.ask(question), 0);
  const std::string fresh = s.text();
  const auto fails = [&](std::int32_t code, std::int32_t should) {
    EXPECT_EQUAL(code, should);
    EXPECT_EQUAL(record->error_type, tokenjoule::llama_error_type(should));
    EXPECT_EQUAL(record->outcome, static_cast<std::uint32_t>(TJ_OUTCOME_ERROR));
  };

  fails(s.ask(question, 8, -1), tokenjoule::llama_error_invalid_request);
  s.adapter.options().chat_template = "no such template";
  fails(s.ask(question), tokenjoule::llama_error_chat_template);
  s.adapter.options().chat_template.clear();

  fails(s.ask(std::string(4096, '#')), tokenjoule::llama_error_context_overflow);
  EXPECT(record->prompt_tokens > 4096, record->prompt_tokens);
  EXPECT_EQUAL(record->completion_tokens, TJ_UNKNOWN);  // none was made, none was told of

  s.adapter.options().on_piece = [](std::string_view) -> bool { throw std::runtime_error("the user's"); };
  fails(s.ask(question), tokenjoule::llama_error_exception);
  EXPECT_EQUAL(record->completion_tokens, 1u);
  s.adapter.options().on_piece = [](std::string_view) -> bool { throw std::bad_alloc(); };
  fails(s.ask(question), tokenjoule::llama_error_out_of_memory);

  std::int32_t inner = 0;
  s.adapter.options().on_piece = [&](std::string_view) {
    const tj_engine engine = s.adapter.engine();
    const tj_message message = {"user", "And now?"};
    tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
    request.model = "tiny";
    request.messages = &message;
    request.message_count = 1;
    tj_generate_result result = TJ_GENERATE_RESULT_INIT;
    tj_error error{};
    if (tj_instrumented_generate(&engine, &request, &result, &error) == TJ_ERR_ENGINE) inner = error.engine_code;
    return true;
  };
  EXPECT_EQUAL(s.ask(question), 0);  // the outer call is not disturbed
  EXPECT_EQUAL(inner, tokenjoule::llama_error_busy);
  EXPECT_EQUAL(s.text(), fresh);

  s.adapter.options().on_piece = nullptr;
  EXPECT_EQUAL(s.ask(question), 0);
  EXPECT_EQUAL(s.text(), fresh);
}

void another_sequence_may_fill_the_cache(llama_model *model) {
  session s(model, {1024, 512, 2});
  EXPECT_EQUAL(s.ask("Hello!"), 0);
  const std::string fresh = s.text();
  llama_batch batch = llama_batch_init(512, 0, 1);
  for (int i = 0; i < 512; ++i) {
    batch.token[i] = 300;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 1;
    batch.logits[i] = 0;
  }
  llama_pos position = 0;
  for (batch.n_tokens = 512; batch.n_tokens > 0; batch.n_tokens /= 2) {
    const auto fits = [&] {
      for (int i = 0; i < batch.n_tokens; ++i) batch.pos[i] = position + i;
      return llama_decode(s.context.get(), batch) == 0;
    };
    while (fits()) position += batch.n_tokens;
  }
  llama_batch_free(batch);

  EXPECT_EQUAL(s.ask(question), tokenjoule::llama_error_kv_cache_full);
  EXPECT_EQUAL(record->error_type, "kv_cache_full");
  llama_memory_seq_rm(llama_get_memory(s.context.get()), 1, -1, -1);
  EXPECT_EQUAL(s.ask("Hello!"), 0);
  EXPECT_EQUAL(s.text(), fresh);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: adapter_test TINY.gguf\n");
    return 2;
  }
  llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
  llama_backend_init();
  llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) {
    std::fprintf(stderr, "adapter_test: cannot load %s\n", argv[1]);
    return 2;
  }
  const auto keep = [](const tj_event *event, void *) { record = std::make_unique<finished_call>(*event->record); };
  std::uint64_t subscription = 0;
  const std::uint64_t records = TJ_EVENT_MASK(TJ_EVENT_TELEMETRY_RECORD);
  if (tj_bus_subscribe(records, keep, nullptr, nullptr, &subscription, nullptr) != TJ_OK) return 2;

  try {
    the_cache_changes_the_work_and_not_the_answer(model);
    an_answer_ends_by_itself_or_at_a_limit(model);
    a_seed_makes_sampling_repeatable(model);
    pieces_are_the_answer(model);
    a_call_can_be_stopped(model);
    a_batch_is_aborted_in_its_middle(model);
    each_failure_has_its_code(model);
    another_sequence_may_fill_the_cache(model);
  } catch (const std::exception &problem) {
    std::printf("adapter_test: %s\n", problem.what());
    ++failed;
  }
  llama_model_free(model);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
