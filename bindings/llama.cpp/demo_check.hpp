// demo_check.hpp: `demo --check`. Counts every call's tokens from llama.cpp itself, without the adapter's help, and
// compares them with what was recorded and with what the database answers.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <llama.h>

#include "demo_tables.hpp"
#include "tokenjoule.h"

namespace demo {

struct engine_counts {
  std::uint64_t prompt = 0, cached = 0, evaluated = 0, completion = 0;
};

// Derives a call's counts from three things that the adapter does not write: the prompt, tokenized once more; the
// highest position in the KV cache; and how many tokens llama.cpp has decoded in all.
class witness {
 public:
  explicit witness(llama_context *context) : context_(context) {}

  void call_begins(const std::vector<tj_message> &messages) {
    const llama_model *model = llama_get_model(context_);
    std::vector<llama_chat_message> chat;
    std::string text(1024, '\0');  // room for the template's own words
    for (const auto &message : messages) {
      chat.push_back({message.role, message.content});
      text += message.content;
    }
    const char *own = llama_model_chat_template(model, nullptr);
    const char *chat_template = own != nullptr ? own : "chatml";
    const std::int32_t length = llama_chat_apply_template(chat_template, chat.data(), chat.size(), true, text.data(),
                                                          static_cast<std::int32_t>(text.size()));
    prompt_ = 0;
    if (length < 0 || static_cast<std::size_t>(length) > text.size()) return;
    // Given no room for tokens, it says how many there would be.
    const llama_vocab *vocabulary = llama_model_get_vocab(model);
    const std::int32_t tokens = llama_tokenize(vocabulary, text.data(), length, nullptr, 0, true, true);
    prompt_ = static_cast<std::uint64_t>(-tokens);
  }

  engine_counts call_ended() {
    engine_counts counts;
    counts.prompt = prompt_;
    const auto before = decoded_;
    const llama_perf_context_data perf = llama_perf_context(context_);
    decoded_ = static_cast<std::uint64_t>(perf.n_p_eval) + static_cast<std::uint64_t>(perf.n_eval);
    const std::uint64_t decoded = decoded_ - before;
    const auto held = static_cast<std::uint64_t>(llama_memory_seq_pos_max(llama_get_memory(context_), 0) + 1);
    if (decoded == 0 || held == 0) return counts;  // refused: llama.cpp never saw it
    // The last token sampled is never decoded.
    counts.completion = held + 1 - counts.prompt;
    counts.evaluated = decoded + 1 - counts.completion;
    counts.cached = counts.prompt - counts.evaluated;
    return counts;
  }

 private:
  llama_context *context_;
  std::uint64_t prompt_ = 0;
  // llama.cpp reports a counter of 0 as 1; from the first call on (a prompt, then single tokens) both are past that.
  std::uint64_t decoded_ = 0;
};

class checks {
 public:
  void that(bool holds, const std::string &what) {
    ++made_;
    if (holds) return;
    ++failed_;
    std::fprintf(stderr, "check failed: %s\n", what.c_str());
  }
  void equal(std::uint64_t is, std::uint64_t should, const std::string &what) {
    that(is == should, what + " is " + count(is) + ", should be " + count(should));
  }
  int end() const {
    std::printf("\ncheck: %d of %d facts hold\n", made_ - failed_, made_);
    return failed_ == 0 ? 0 : 1;
  }

 private:
  int made_ = 0, failed_ = 0;
};

inline void check_calls(checks &check, const std::vector<finished_call> &calls,
                        const std::vector<engine_counts> &counted) {
  check.equal(calls.size(), counted.size(), "number of records");
  for (std::size_t i = 0; i < calls.size() && i < counted.size(); ++i) {
    const finished_call &call = calls[i];
    const engine_counts &engine = counted[i];
    const std::string of = " of the call '" + call.name + "'";
    check.equal(call.prompt_tokens, engine.prompt, "prompt_tokens" + of);
    // A call that made no token has told of none, which is recorded as unknown.
    if (engine.completion > 0 || call.completion_tokens != TJ_UNKNOWN)
      check.equal(call.completion_tokens, engine.completion, "completion_tokens" + of);

    const bool cancelled = call.name == "cancelled", refused = call.name == "too long";
    const auto outcome = cancelled ? TJ_OUTCOME_CANCELLED : refused ? TJ_OUTCOME_ERROR : TJ_OUTCOME_OK;
    check.equal(call.outcome, static_cast<std::uint64_t>(outcome), "outcome" + of);
    if (refused) {
      check.that(call.error_type == "context_overflow", "error_type" + of + " is '" + call.error_type + "'");
      continue;
    }
    check.equal(call.cached_tokens, engine.cached, "cached_tokens" + of);
    check.equal(call.prompt_tokens_evaluated, engine.evaluated, "prompt_tokens_evaluated" + of);
    check.equal(call.prompt_tokens_evaluated + call.cached_tokens, call.prompt_tokens, "evaluated + cached" + of);
    check.that(call.latency_seconds > 0, "the latency" + of + " is not positive");
    if (call.completion_tokens > 1)
      check.that(call.ttft > 0 && call.ttft < call.latency_seconds, "TTFT" + of + " is not between 0 and its latency");
    if (call.completion_tokens > 2) check.that(call.median_itl_ms > 0, "the median ITL" + of + " is missing");
    if (call.name == "same system" || call.name == "follow-up" || call.name == "sampled" || cancelled)
      check.that(call.cached_tokens > 0, "no cached tokens" + of + ", which repeats a prompt");
    check.that(cancelled ? call.completion_tokens < 64 : call.finish_reason == "stop" || call.finish_reason == "length",
               "the call '" + call.name + "' ended by '" + call.finish_reason + "'");
  }
}

inline void check_database(checks &check, tj_store *store, const std::string &batch,
                           const std::vector<finished_call> &calls, const std::vector<engine_counts> &counted) {
  const auto ask = [&](std::uint32_t outcome_mask, std::uint32_t exclude_warmup) {
    tj_query query = TJ_QUERY_INIT;
    query.batch_id = batch.c_str();
    query.outcome_mask = outcome_mask;
    query.exclude_warmup = exclude_warmup;
    tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
    tj_error error{};
    const tj_status status = tj_aggregate(store, &query, &stats, &error);
    check.that(status == TJ_OK, std::string("tj_aggregate: ") + error.message);
    return stats;  // all zero if it failed
  };
  std::uint64_t outcomes[3] = {}, warmups = 0;
  for (const auto &call : calls) {
    if (call.outcome < 3) ++outcomes[call.outcome];
    warmups += call.warmup;
  }
  for (const std::uint32_t outcome : {TJ_OUTCOME_OK, TJ_OUTCOME_ERROR, TJ_OUTCOME_CANCELLED}) {
    tj_aggregated_stats stats = ask(1u << outcome, 0);
    check.equal(stats.total_calls, outcomes[outcome], std::string("calls in the database: ") + outcome_name(outcome));
    tj_aggregated_stats_free(&stats);
  }
  tj_aggregated_stats stats = ask(0, 1);
  check.equal(stats.total_calls, calls.size() - warmups, "calls in the database without warm-up");
  tj_aggregated_stats_free(&stats);

  stats = ask(0, 0);
  engine_counts sum;
  std::uint64_t answered = 0, gaps = 0;
  for (const auto &counts : counted) {
    sum.prompt += counts.prompt;
    sum.cached += counts.cached;
    sum.evaluated += counts.evaluated;
    sum.completion += counts.completion;
    answered += counts.completion > 0;
    gaps += counts.completion - (counts.completion > 0);
  }
  check.equal(stats.total_calls, calls.size(), "calls in the database");
  check.equal(stats.total_tokens, sum.prompt + sum.completion, "tokens in the database");
  check.equal(stats.error_count, outcomes[TJ_OUTCOME_ERROR], "error_count");
  check.equal(stats.cancelled_count, outcomes[TJ_OUTCOME_CANCELLED], "cancelled_count");
  check.equal(stats.per_model_count, 1, "models in the database");
  check.equal(stats.per_engine_count, 1, "engines in the database");
  const auto group = [&](const auto &of, const std::string &what) {
    check.equal(of.call_count, calls.size(), what + " call_count");
    check.equal(of.prompt_tokens, sum.prompt, what + " prompt_tokens");
    check.equal(of.cached_tokens, sum.cached, what + " cached_tokens");
    check.equal(of.prompt_tokens_evaluated, sum.evaluated, what + " prompt_tokens_evaluated");
    check.equal(of.completion_tokens, sum.completion, what + " completion_tokens");
    check.equal(of.latency.count, calls.size(), what + " latency.count");
    check.equal(of.itl_ms.count, gaps, what + " itl_ms.count, one per token after a call's first,");
    check.equal(of.ttft.count, answered, what + " ttft.count");
    for (const tj_distribution *d : {&of.latency, &of.ttft, &of.itl_ms})  // percentiles are exact to 1 %
      check.that(d->min <= d->p50 * 1.01 && d->p50 <= d->p95 && d->p95 <= d->p99 && d->p99 <= d->max * 1.01,
                 what + " percentiles are out of order");
  };
  if (stats.per_model_count == 1) group(stats.per_model[0], "the model's");
  if (stats.per_engine_count == 1) group(stats.per_engine[0], "the engine's");
  tj_aggregated_stats_free(&stats);
}

// The program's exit status.
inline int check(tj_store *store, const std::string &batch, const std::vector<finished_call> &calls,
                 const std::vector<engine_counts> &counted) {
  std::fflush(stdout);
  checks check;
  check_calls(check, calls, counted);
  check_database(check, store, batch, calls, counted);
  return check.end();
}

}  // namespace demo
