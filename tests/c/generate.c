/*
 * Instrumented generation: what an engine gets, what comes back, what is recorded, and that telemetry never breaks it.
 */
#include "tape.h"

#include <pthread.h>

/* ---- tj_instrumented_generate ---- */

static void what_the_engine_fills_in_comes_back_untouched(void) {
  static const char no_utf8[] = "an answer \xFF that is no UTF-8";
  int anything = 0;
  script it = {0, TJ_GENERATE_RESULT_INIT, NULL, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT, expected;
  it.answer.content = no_utf8; /* the answer is nobody's business */
  it.answer.prompt_tokens = 12, it.answer.prompt_tokens_evaluated = TJ_UNKNOWN, it.answer.completion_tokens = 34;
  it.answer.cached_tokens = UINT64_MAX - 5; /* cannot be; and comes back all the same */
  it.answer.reasoning_tokens = 3, it.answer.draft_tokens = 2, it.answer.draft_accepted_tokens = 1;
  it.answer.ttft = 0.5, it.answer.cost_usd = -1.0, it.answer.queue_seconds = INFINITY;
  it.answer.prefill_seconds = 0.25, it.answer.decode_seconds = 0.125;
  it.answer.finish_reason = "stop", it.answer.error_type = "\xFF", it.answer.metadata_json = "{]";
  it.answer.user_data = &anything;
  expected = it.answer;
  CHECK_OK(generate(&it, &result));
  CHECK_EQ(it.runs, 1);
  CHECK(memcmp(&result, &expected, sizeof result) == 0);
  record_of_the_call();
}

static void a_record_holds_what_the_request_says(void) {
  script it = {0, TJ_GENERATE_RESULT_INIT, NULL, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_engine engine = TJ_ENGINE_INIT;
  tj_generate_request request = some_request();
  const tj_telemetry_record *record;
  double before = check_wall_clock();
  request.agent = "agent", request.batch_id = "batch", request.operation = "chat", request.request_id = "request";
  request.session_id = "session", request.trace_id = "trace", request.span_id = "span", request.is_warmup = 1;
  it.asked = &request;
  it.answer.finish_reason = "length", it.answer.metadata_json = "{\"k\":1}";
  engine.engine_id = "scripted", engine.generate = follow_script, engine.engine_data = &it;
  CHECK_OK(tj_instrumented_generate(&engine, &request, &result, &error));
  record = record_of_the_call();
  CHECK_STR(record->model_id, "model"), CHECK_STR(record->engine, "scripted"), CHECK_STR(record->agent, "agent");
  CHECK_STR(record->batch_id, "batch"), CHECK_STR(record->operation, "chat"), CHECK_STR(record->request_id, "request");
  CHECK_STR(record->session_id, "session"), CHECK_STR(record->trace_id, "trace"), CHECK_STR(record->span_id, "span");
  CHECK_EQ(record->is_warmup, 1), CHECK_EQ(record->outcome, TJ_OUTCOME_OK);
  CHECK_STR(record->finish_reason, "length"), CHECK_STR(record->metadata_json, "{\"k\":1}");
  CHECK_STR(record->error_type, "");
  CHECK_BETWEEN(record->timestamp, before, check_wall_clock());
}

/* What tell_of_tokens told, where nothing else is known. */
static void check_observed(const tj_telemetry_record *record, const char *but) {
#define OBSERVED(field, expected) (strcmp(but, #field) == 0 ? (void)0 : CHECK_EQ(record->field, expected))
  OBSERVED(prompt_tokens, 100), OBSERVED(cached_tokens, 40), OBSERVED(completion_tokens, 6);
  OBSERVED(reasoning_tokens, TJ_UNKNOWN), OBSERVED(draft_tokens, 10), OBSERVED(draft_accepted_tokens, 4);
#define NOT_KNOWN(field) (strcmp(but, #field) == 0 ? (void)0 : CHECK_NUM(record->field, NAN))
  NOT_KNOWN(cost_usd), NOT_KNOWN(queue_seconds);
  if (strcmp(but, "prompt_tokens") != 0 && strcmp(but, "cached_tokens") != 0) {
    OBSERVED(prompt_tokens_evaluated, 60); /* "Not given: prompt_tokens - cached_tokens" */
  }
  if (strcmp(but, "ttft") != 0) {
    CHECK_BETWEEN(record->ttft, 0.002, record->latency_seconds);
  }
  if (strcmp(but, "prefill_latency_seconds") != 0) {
    CHECK_NUM(record->prefill_latency_seconds, record->ttft); /* "Not given: TTFT" */
  }
  if (strcmp(but, "decode_latency_seconds") != 0 && strcmp(but, "ttft") != 0) {
    CHECK_NEAR(record->decode_latency_seconds, record->latency_seconds - record->ttft, 1e-9);
  }
  if (strcmp(but, "completion_tokens") != 0) {
    CHECK_NEAR(record->throughput_tok_per_sec, 6 / record->latency_seconds, 1e-9);
  }
}

/* "What the engine reports wins over what was observed, field by field." */
static void what_is_reported_wins_field_by_field(void) {
  const struct reported *it;
  for (EACH(it, reported)) {
    script engine = {0, TJ_GENERATE_RESULT_INIT, tell_of_tokens, 0, NULL};
    tj_generate_result result = TJ_GENERATE_RESULT_INIT;
    const tj_telemetry_record *record;
    set(&engine.answer, it, it->is_count ? 55 : 0.0009765625);
    CHECK_OK(generate(&engine, &result));
    record = record_of_the_call();
    CHECK_NUM(get(record, it), it->is_count ? 55 : 0.0009765625);
    check_observed(record, it->of_record);
  }
}

/* "0, NULL, NAN and TJ_UNKNOWN all mean: not given." */
static void what_is_not_reported_is_what_was_observed(void) {
  const struct reported *it;
  int round;
  for (round = 0; round < 2; round++) {
    script engine = {0, TJ_GENERATE_RESULT_INIT, tell_of_tokens, 0, NULL};
    tj_generate_result result = TJ_GENERATE_RESULT_INIT;
    if (round == 1) {
      for (EACH(it, reported)) {
        const uint64_t unknown = TJ_UNKNOWN;
        const double nan_figure = NAN;
        memcpy((char *)&engine.answer + it->result_offset, it->is_count ? (const void *)&unknown : &nan_figure, 8);
      }
      engine.answer.finish_reason = engine.answer.error_type = engine.answer.metadata_json = "";
    }
    CHECK_OK(generate(&engine, &result));
    check_observed(record_of_the_call(), "");
  }
}

static void what_nobody_knows_stays_unknown(void) {
  script engine = {0, TJ_GENERATE_RESULT_INIT, NULL, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  const tj_telemetry_record *record;
  const struct reported *it;
  CHECK_OK(generate(&engine, &result));
  record = record_of_the_call();
  for (EACH(it, reported)) {
    CHECK_NUM(get(record, it), it->is_count ? (double)TJ_UNKNOWN : NAN);
  }
  CHECK_EQ(record->total_tokens, TJ_UNKNOWN);
  CHECK_NUM(record->throughput_tok_per_sec, NAN), CHECK_NUM(record->mean_itl_ms, NAN);
  CHECK_NUM(record->energy_joules, NAN), CHECK_NUM(record->power_watts, NAN);
  CHECK(record->latency_seconds > 0);
  CHECK_EQ(record->is_streaming, 0);
}

static void an_engine_that_fails_is_recorded_as_failed(void) {
  static const struct {
    int32_t code;
    const char *own, *error_type;
  } cases[] = {{7, NULL, "engine_code_7"}, {-5, "", "engine_code_-5"}, {INT32_MIN, NULL, "engine_code_-2147483648"},
               {1, "out_of_memory", "out_of_memory"}};
  size_t i;
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    script it = {0, TJ_GENERATE_RESULT_INIT, tell_of_tokens, 0, NULL};
    tj_generate_result result, before;
    const tj_telemetry_record *record;
    memset(&result, CHECK_POISON, sizeof result);
    result.struct_size = sizeof result;
    before = result;
    it.code = cases[i].code;
    it.answer.error_type = cases[i].own, it.answer.finish_reason = "error", it.answer.content = "half";
    CHECK_ENGINE_FAILS(generate(&it, &result), cases[i].code, "scripted");
    CHECK(memcmp(&result, &before, sizeof result) == 0); /* on failure *out_result is not written */
    record = record_of_the_call();
    CHECK_EQ(record->outcome, TJ_OUTCOME_ERROR);
    CHECK_STR(record->error_type, cases[i].error_type);
    CHECK_STR(record->finish_reason, "error");
    check_observed(record, ""); /* what it had done before it failed */
  }
}

static void *cancel_soon(void *call) {
  check_sleep_ms(10);
  tj_call_cancel((tj_call *)call);
  return NULL;
}

static void work_until_cancelled(tj_call *call) {
  pthread_t thread;
  double give_up = check_monotonic() + 20;
  CHECK(!tj_call_cancelled(call));
  CHECK(pthread_create(&thread, NULL, cancel_soon, call) == 0);
  while (!tj_call_cancelled(call) && check_monotonic() < give_up) {
    tj_call_tokens(call, 1);
    check_sleep_ms(1);
  }
  CHECK(tj_call_cancelled(call));
  pthread_join(thread, NULL);
}

/* "TJ_OUTCOME_CANCELLED after tj_call_cancel", of an engine that returns non-zero; one that returns 0 has finished. */
static void an_engine_can_be_cancelled_from_another_thread(void) {
  script it = {1, TJ_GENERATE_RESULT_INIT, work_until_cancelled, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  const tj_telemetry_record *record;
  CHECK_ENGINE_FAILS(generate(&it, &result), 1, NULL);
  record = record_of_the_call();
  CHECK_EQ(record->outcome, TJ_OUTCOME_CANCELLED);
  CHECK(record->completion_tokens >= 1 && record->completion_tokens < 10000);
  it.code = 0;
  CHECK_OK(generate(&it, &result));
  CHECK_EQ(record_of_the_call()->outcome, TJ_OUTCOME_OK);
}

/* ---- Telemetry never breaks a generation ---- */

/* The record's metadata names exactly this field, or these. */
static void check_ignored(const tj_telemetry_record *record, const char *names) {
  char expected[256];
  snprintf(expected, sizeof expected, "\"tokenjoule.ignored\":[%s]", names);
  if (strstr(record->metadata_json, expected) == NULL) {
    check_fail(__FILE__, __LINE__, "metadata does not have %s: %.300s", expected, record->metadata_json);
  }
}

static void a_bad_figure_is_left_out_and_named(void) {
  static const double bad_figures[] = {-1.0, INFINITY, -INFINITY};
  const struct reported *it;
  for (EACH(it, reported)) {
    size_t i;
    for (i = 0; i < (it->is_count ? 1 : 3); i++) {
      script engine = {0, TJ_GENERATE_RESULT_INIT, tell_of_tokens, 0, NULL};
      tj_generate_result result = TJ_GENERATE_RESULT_INIT;
      const tj_telemetry_record *record;
      char name[64];
      set(&engine.answer, it, it->is_count ? 9223372036854775808.0 : bad_figures[i]);
      engine.answer.metadata_json = "{\"kept\": [1, 2]}";
      CHECK_OK(generate(&engine, &result));
      CHECK(memcmp(&result, &engine.answer, sizeof result) == 0);
      record = record_of_the_call();
      check_observed(record, ""); /* as if it had not been given */
      snprintf(name, sizeof name, "\"%s\"", it->of_result);
      check_ignored(record, name);
      CHECK(strstr(record->metadata_json, "\"kept\":[1,2]") != NULL);
    }
  }
}

static void a_bad_text_is_left_out_and_named(void) {
  char *long_text = (char *)malloc(64 * 1024 + 2), *long_json = (char *)malloc(1024 * 1024 + 2);
  const char *bad[3];
  size_t i;
  memset(long_text, 'x', 64 * 1024 + 1), long_text[64 * 1024 + 1] = 0;
  memset(long_json, ' ', 1024 * 1024 + 1), long_json[1024 * 1024 + 1] = 0;
  memcpy(long_json, "{}", 2);
  bad[0] = "\xC3(", bad[1] = long_text, bad[2] = "[1]";
  for (i = 0; i < 4; i++) {
    script engine = {0, TJ_GENERATE_RESULT_INIT, NULL, 0, NULL};
    tj_generate_result result = TJ_GENERATE_RESULT_INIT;
    const tj_telemetry_record *record;
    if (i < 2) {
      engine.answer.finish_reason = bad[i];
      CHECK_OK(generate(&engine, &result));
      record = record_of_the_call();
      CHECK_STR(record->finish_reason, "");
      check_ignored(record, "\"finish_reason\"");

      engine.code = 3;
      engine.answer.finish_reason = "stop", engine.answer.error_type = bad[i];
      CHECK_ENGINE_FAILS(generate(&engine, &result), 3, NULL);
      record = record_of_the_call();
      CHECK_STR(record->error_type, "engine_code_3"); /* as if it had not been given */
      CHECK_STR(record->finish_reason, "stop");
      check_ignored(record, "\"error_type\"");
    } else {
      engine.answer.metadata_json = i == 2 ? bad[i] : long_json;
      engine.answer.finish_reason = "stop";
      CHECK_OK(generate(&engine, &result));
      record = record_of_the_call();
      CHECK_STR(record->metadata_json, "{\"tokenjoule.ignored\":[\"metadata_json\"]}");
      CHECK_STR(record->finish_reason, "stop");
    }
  }
  free(long_text), free(long_json);
}

static void all_that_is_bad_is_named(void) {
  script engine = {0, TJ_GENERATE_RESULT_INIT, NULL, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  const tj_telemetry_record *record;
  engine.answer.prompt_tokens = UINT64_C(1) << 63, engine.answer.ttft = -1, engine.answer.cost_usd = INFINITY;
  engine.answer.finish_reason = "\xFF", engine.answer.completion_tokens = 5;
  CHECK_OK(generate(&engine, &result));
  record = record_of_the_call();
  CHECK_EQ(record->completion_tokens, 5);
  CHECK(strstr(record->metadata_json, "\"prompt_tokens\"") && strstr(record->metadata_json, "\"ttft\"") &&
        strstr(record->metadata_json, "\"cost_usd\"") && strstr(record->metadata_json, "\"finish_reason\""));
}

/* Metadata as large, or as deep, as may be, and no room to name what is bad: the generation goes on as always. */
static void extreme_metadata_breaks_no_generation(void) {
  const size_t mib = 1024 * 1024, depth = 200000;
  char *json = (char *)malloc(mib + 1);
  script engine = {0, TJ_GENERATE_RESULT_INIT, NULL, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  memset(json, 'x', mib), json[mib] = 0;
  memcpy(json, "{\"a\":\"", 6), memcpy(json + mib - 2, "\"}", 2);
  engine.answer.metadata_json = json;
  engine.answer.ttft = -1;
  CHECK_OK(generate(&engine, &result));
  record_of_the_call();
  memcpy(json, "{\"a\":", 5);
  memset(json + 5, '[', depth), memset(json + 5 + depth, ']', depth), memcpy(json + 5 + 2 * depth, "}", 2);
  CHECK_OK(generate(&engine, &result));
  record_of_the_call();
  free(json);
}

/* ---- The call that is lent to an engine ---- */

static void free_the_call(tj_call *call) {
  tj_call_free(call); /* is left alone */
  tj_call_tokens(call, 3);
  tj_call_free(call);
}

static void end_the_call(tj_call *call) {
  tj_call_tokens(call, 2);
  CHECK_EQ(tj_call_end(call, TJ_OUTCOME_CANCELLED, NULL, NULL), TJ_OK);
  tj_call_tokens(call, 1); /* ignored */
}

static void a_lent_call_cannot_be_freed(void) {
  script it = {0, TJ_GENERATE_RESULT_INIT, free_the_call, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  CHECK_OK(generate(&it, &result));
  CHECK_EQ(record_of_the_call()->completion_tokens, 3);
}

static void an_engine_that_ends_its_call_is_recorded_once(void) {
  script it = {0, TJ_GENERATE_RESULT_INIT, end_the_call, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  const tj_telemetry_record *record;
  CHECK_OK(generate(&it, &result));
  record = record_of_the_call();
  CHECK_EQ(record->outcome, TJ_OUTCOME_CANCELLED);
  CHECK_EQ(record->completion_tokens, 2);
  it.code = 9;
  CHECK_ENGINE_FAILS(generate(&it, &result), 9, NULL);
  CHECK_EQ(record_of_the_call()->completion_tokens, 2);
}

static void ask_another_engine(tj_call *call) {
  script inner = {0, TJ_GENERATE_RESULT_INIT, tell_of_tokens, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_error outer = error;
  CHECK_OK(generate(&inner, &result));
  CHECK_EQ(record_of_the_call()->completion_tokens, 6);
  error = outer;
  tj_call_tokens(call, 1);
}

static void an_engine_may_ask_another(void) {
  script it = {0, TJ_GENERATE_RESULT_INIT, ask_another_engine, 0, NULL};
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  CHECK_OK(generate(&it, &result));
  CHECK_EQ(record_of_the_call()->completion_tokens, 1);
}

static void what_is_refused_reaches_no_engine_and_no_subscriber(void) {
  char *long_text = (char *)malloc(64 * 1024 + 2);
  tj_bus_queue *all;
  tj_polled_event none = TJ_POLLED_EVENT_INIT;
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  script it = {0, TJ_GENERATE_RESULT_INIT, NULL, 0, NULL};
  tj_engine engine = TJ_ENGINE_INIT;
  tj_call *call;
  static const size_t texts[] = {offsetof(tj_generate_request, model),      offsetof(tj_generate_request, agent),
                                 offsetof(tj_generate_request, batch_id),   offsetof(tj_generate_request, operation),
                                 offsetof(tj_generate_request, request_id), offsetof(tj_generate_request, session_id),
                                 offsetof(tj_generate_request, trace_id),   offsetof(tj_generate_request, span_id)};
  static const char *const names[] = {"model",      "agent",      "batch_id", "operation",
                                      "request_id", "session_id", "trace_id", "span_id"};
  size_t i;
  engine.engine_id = "e", engine.generate = follow_script, engine.engine_data = &it;
  memset(long_text, 'x', 64 * 1024 + 1), long_text[64 * 1024 + 1] = 0;
  CHECK_OK(tj_bus_queue_open(TJ_EVENT_MASK_ALL, 100, &all, &error));
  for (i = 0; i < sizeof texts / sizeof *texts; i++) { /* 64 KiB, as in a record */
    tj_generate_request request = some_request();
    memcpy((char *)&request + texts[i], &long_text, sizeof long_text);
    CHECK_FAILS(tj_instrumented_generate(&engine, &request, &result, &error), TJ_ERR_INVALID_ARGUMENT, names[i]);
    CHECK_FAILS(tj_call_begin("e", &request, &call, &error), TJ_ERR_INVALID_ARGUMENT, names[i]);
  }
  {
    static const char *const bad[] = {"[]", "{", "1", "{} x"};
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
      tj_generate_request request = some_request();
      request.extra_json = bad[i];
      CHECK_FAILS(tj_instrumented_generate(&engine, &request, &result, &error), TJ_ERR_INVALID_ARGUMENT, "extra_json");
      CHECK_FAILS(tj_call_begin("e", &request, &call, &error), TJ_ERR_INVALID_ARGUMENT, "extra_json");
    }
  }
  CHECK_EQ(it.runs, 0);
  CHECK_FAILS(tj_bus_poll(all, 0, &none, &error), TJ_ERR_TIMEOUT, NULL);
  tj_bus_queue_free(all);
  free(long_text);
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"what the engine fills in comes back untouched", what_the_engine_fills_in_comes_back_untouched},
      {"a record holds what the request says", a_record_holds_what_the_request_says},
      {"what is reported wins, field by field", what_is_reported_wins_field_by_field},
      {"what is not reported is what was observed", what_is_not_reported_is_what_was_observed},
      {"what nobody knows stays unknown", what_nobody_knows_stays_unknown},
      {"an engine that fails is recorded as failed", an_engine_that_fails_is_recorded_as_failed},
      {"an engine can be cancelled from another thread", an_engine_can_be_cancelled_from_another_thread},
      {"a bad figure is left out and named", a_bad_figure_is_left_out_and_named},
      {"a bad text is left out and named", a_bad_text_is_left_out_and_named},
      {"all that is bad is named", all_that_is_bad_is_named},
      {"extreme metadata breaks no generation", extreme_metadata_breaks_no_generation},
      {"a lent call cannot be freed", a_lent_call_cannot_be_freed},
      {"an engine that ends its call is recorded once", an_engine_that_ends_its_call_is_recorded_once},
      {"an engine may ask another", an_engine_may_ask_another},
      {"what is refused reaches no engine and no subscriber", what_is_refused_reaches_no_engine_and_no_subscriber},
  };
  int result;
  start_the_tape();
  result = CHECK_MAIN(tests);
  stop_the_tape();
  return result;
}
