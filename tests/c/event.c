/*
 * Events: their numbers and kinds, what the program's own hold, and what the three of a call hold.
 */
#include "custom.h"

/* ---- Numbers and kinds ---- */

static uint64_t last_sequence;

static void keep_sequence(const tj_event *event, void *user_data) {
  (void)user_data;
  CHECK(event->sequence > last_sequence);
  last_sequence = event->sequence;
}

/* "Numbers the events of this process, from 1." The first test of all, so the first event of this process. */
static void events_are_numbered_from_1(void) {
  uint64_t subscription = subscribe(TJ_EVENT_MASK_ALL, keep_sequence, NULL, NULL);
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call;
  int n;
  publish("first");
  CHECK_EQ(last_sequence, 1);
  for (n = 0; n < 10; n++) {
    publish("more");
  }
  request.model = "m";
  CHECK_OK(tj_call_begin("e", &request, &call, &error));
  tj_call_free(call);
  CHECK_EQ(last_sequence, 14); /* INFERENCE_START, INFERENCE_END, TELEMETRY_RECORD */
  unsubscribe(subscription);
}

static void count_kinds(const tj_event *event, void *user_data) { ((int *)user_data)[event->kind]++; }

static void a_mask_selects_kinds(void) {
  static const uint32_t kinds[] = {TJ_EVENT_INFERENCE_START, TJ_EVENT_INFERENCE_END, TJ_EVENT_TELEMETRY_RECORD,
                                   TJ_EVENT_CUSTOM, TJ_EVENT_BATCH_START};
  uint64_t of_all = 0, later;
  int all[64] = {0}, none[64] = {0}, each[5][64], kind;
  uint64_t subscriptions[5];
  size_t i;
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call;
  memset(each, 0, sizeof each);
  of_all = subscribe(TJ_EVENT_MASK_ALL, count_kinds, all, NULL);
  later = subscribe(UINT64_C(1) << 40, count_kinds, none, NULL); /* a kind of a later version */
  for (i = 0; i < 5; i++) {
    subscriptions[i] = subscribe(TJ_EVENT_MASK(kinds[i]), count_kinds, each[i], NULL);
  }
  request.model = "m";
  CHECK_OK(tj_call_begin("e", &request, &call, &error));
  tj_call_free(call);
  publish("x"), publish("y");
  for (kind = 0; kind < 64; kind++) {
    int expected = kind == TJ_EVENT_CUSTOM ? 2 : kind >= TJ_EVENT_INFERENCE_START && kind <= TJ_EVENT_TELEMETRY_RECORD;
    CHECK_EQ(all[kind], expected);
    CHECK_EQ(none[kind], 0);
    for (i = 0; i < 5; i++) {
      CHECK_EQ(each[i][kind], kind == (int)kinds[i] ? expected : 0);
    }
  }
  for (i = 0; i < 5; i++) {
    unsubscribe(subscriptions[i]);
  }
  unsubscribe(of_all), unsubscribe(later);
}

/* ---- Custom events ---- */

static int customs;
static char last_name[64], last_data[256];

static void look_at_custom(const tj_event *event, void *user_data) {
  (void)user_data;
  customs++;
  CHECK_EQ(event->struct_size, sizeof(tj_event));
  CHECK_EQ(event->kind, TJ_EVENT_CUSTOM);
  CHECK_STR(event->model_id, "");
  CHECK_STR(event->engine, "");
  CHECK_EQ(event->call_id, 0);
  CHECK(event->record == NULL);
  CHECK_BETWEEN(event->timestamp, check_wall_clock() - 5, check_wall_clock());
  snprintf(last_name, sizeof last_name, "%s", event->name);
  snprintf(last_data, sizeof last_data, "%s", event->data_json);
}

static void custom_events_carry_a_name_and_an_object(void) {
  uint64_t subscription = subscribe(CUSTOM, look_at_custom, NULL, NULL);
  char name[] = "na\xC3\xAFve";
  customs = 0;
  CHECK_OK(tj_bus_publish(name, "{\"a\": [1, \"\xE2\x82\xAC\"]}", &error));
  CHECK_STR(last_name, "na\xC3\xAFve");
  CHECK_STR(last_data, "{\"a\": [1, \"\xE2\x82\xAC\"]}");
  CHECK_OK(tj_bus_publish("name", NULL, &error)); /* "{}" at least */
  CHECK_STR(last_data, "{}");
  CHECK_OK(tj_bus_publish("name", "", &error));
  CHECK_STR(last_data, "{}");
  CHECK_EQ(customs, 3);
  unsubscribe(subscription);
}

static void nobody_sees_a_refused_event(void) {
  static const char *const bad[] = {"[]", "1", "null", "{", "{} {}", "{\"a\":}", "x", "\"\""};
  const size_t mib = 1024 * 1024;
  char *text = (char *)malloc(mib + 2);
  uint64_t subscription = subscribe(CUSTOM, look_at_custom, NULL, NULL);
  size_t i;
  customs = 0;
  for (i = 0; i < sizeof bad / sizeof *bad; i++) {
    CHECK_FAILS(tj_bus_publish("name", bad[i], &error), TJ_ERR_INVALID_ARGUMENT, "data_json");
  }
  CHECK_FAILS(tj_bus_publish("", "{}", &error), TJ_ERR_INVALID_ARGUMENT, "name");
  memset(text, ' ', mib + 1);
  memcpy(text, "{}", 2);
  text[mib + 1] = 0;
  CHECK_FAILS(tj_bus_publish("name", text, &error), TJ_ERR_INVALID_ARGUMENT, "data_json");
  CHECK_EQ(customs, 0);
  text[mib] = 0; /* exactly 1 MiB */
  CHECK_OK(tj_bus_publish("name", text, &error));
  CHECK_EQ(customs, 1);
  unsubscribe(subscription);
  free(text);
}

/* ---- The events of a call ---- */

typedef struct call_log {
  int starts, ends, records;
  uint64_t call_id, sequence;
  tj_store *store;
} call_log;

static void check_object(const char *json) {
  CHECK(json != NULL && json[0] == '{' && json[strlen(json) - 1] == '}');
}

static void check_record_of_a_call_that_measured_little(const tj_telemetry_record *record) {
  CHECK_EQ(record->struct_size, sizeof *record);
  CHECK_STR(record->model_id, "model"), CHECK_STR(record->engine, "engine"), CHECK_STR(record->agent, "agent");
  CHECK_STR(record->request_id, "r-1"), CHECK_STR(record->metadata_json, "{}");
  CHECK_STR(record->finish_reason, ""), CHECK_STR(record->error_type, "");
  CHECK_BETWEEN(record->timestamp, check_wall_clock() - 5, check_wall_clock());
  CHECK_BETWEEN(record->latency_seconds, 1e-9, 5.0);
  CHECK_EQ(record->prompt_tokens, 12), CHECK_EQ(record->cached_tokens, 4), CHECK_EQ(record->prompt_tokens_evaluated, 8);
  CHECK_EQ(record->total_tokens, 12);
  CHECK_EQ(record->outcome, TJ_OUTCOME_OK), CHECK_EQ(record->is_warmup, 1), CHECK_EQ(record->is_streaming, 0);
  /* Unknowns are TJ_UNKNOWN and NAN. */
  CHECK_EQ(record->completion_tokens, TJ_UNKNOWN), CHECK_EQ(record->reasoning_tokens, TJ_UNKNOWN);
  CHECK_EQ(record->draft_tokens, TJ_UNKNOWN), CHECK_EQ(record->draft_accepted_tokens, TJ_UNKNOWN);
  CHECK_NUM(record->ttft, NAN), CHECK_NUM(record->cost_usd, NAN), CHECK_NUM(record->queue_seconds, NAN);
  CHECK_NUM(record->prefill_latency_seconds, NAN), CHECK_NUM(record->decode_latency_seconds, NAN);
  CHECK_NUM(record->throughput_tok_per_sec, NAN), CHECK_NUM(record->mean_itl_ms, NAN);
  CHECK_NUM(record->median_itl_ms, NAN), CHECK_NUM(record->p90_itl_ms, NAN), CHECK_NUM(record->p95_itl_ms, NAN);
  CHECK_NUM(record->p99_itl_ms, NAN), CHECK_NUM(record->std_itl_ms, NAN);
}

static void follow_a_call(const tj_event *event, void *user_data) {
  call_log *self = (call_log *)user_data;
  CHECK_EQ(event->struct_size, sizeof *event);
  CHECK(event->sequence > self->sequence);
  self->sequence = event->sequence;
  CHECK_STR(event->model_id, "model");
  CHECK_STR(event->engine, "engine");
  CHECK_BETWEEN(event->timestamp, check_wall_clock() - 5, check_wall_clock());
  check_object(event->data_json);
  switch (event->kind) {
  case TJ_EVENT_INFERENCE_START:
    CHECK_STR(event->name, "inference_start");
    CHECK(event->record == NULL); /* only where promised */
    CHECK(event->call_id != 0);
    self->call_id = event->call_id;
    CHECK_EQ(self->starts++ + self->ends + self->records, 0);
    break;
  case TJ_EVENT_INFERENCE_END:
    CHECK_STR(event->name, "inference_end");
    CHECK_EQ(event->call_id, self->call_id);
    CHECK(event->record != NULL);
    check_record_of_a_call_that_measured_little(event->record);
    CHECK(self->starts == 1 && self->ends++ == 0 && self->records == 0);
    break;
  case TJ_EVENT_TELEMETRY_RECORD:
    CHECK_STR(event->name, "telemetry_record");
    CHECK_EQ(event->call_id, self->call_id);
    CHECK(event->record != NULL);
    check_record_of_a_call_that_measured_little(event->record);
    CHECK(self->starts == 1 && self->ends == 1 && self->records++ == 0);
    CHECK_EQ(check_count(self->store), 1); /* the stores have it already */
    break;
  default:
    check_fail(__FILE__, __LINE__, "an event of kind %u", event->kind);
  }
}

static void a_call_is_told_in_three_events(void) {
  call_log log = {0, 0, 0, 0, 0, NULL};
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call;
  uint64_t subscription;
  log.store = check_open(":memory:");
  subscription = subscribe(TJ_EVENT_MASK_ALL, follow_a_call, &log, NULL); /* before the store, and yet after it */
  CHECK_OK(tj_store_subscribe(log.store, &error));
  request.model = "model", request.agent = "agent", request.request_id = "r-1", request.is_warmup = 1;
  CHECK_OK(tj_call_begin("engine", &request, &call, &error));
  CHECK_EQ(log.starts, 1);
  CHECK_EQ(tj_call_id(call), log.call_id);
  tj_call_prompt(call, 12, 4);
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  CHECK(log.starts == 1 && log.ends == 1 && log.records == 1);
  tj_call_free(call);
  CHECK(log.starts == 1 && log.ends == 1 && log.records == 1);
  unsubscribe(subscription);
  CHECK_OK(tj_store_close(log.store, &error));
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"events are numbered from 1", events_are_numbered_from_1},
      {"a mask selects kinds", a_mask_selects_kinds},
      {"custom events carry a name and an object", custom_events_carry_a_name_and_an_object},
      {"nobody sees a refused event", nobody_sees_a_refused_event},
      {"a call is told in three events", a_call_is_told_in_three_events},
  };
  return CHECK_MAIN(tests);
}
