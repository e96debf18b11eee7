/*
 * tj_batch_stats, by small cases that were worked out by hand.
 */
#include "calls.h"

static tj_telemetry_record call_in(const char *batch, double timestamp) {
  tj_telemetry_record record = call_of("m", "e", timestamp);
  record.batch_id = batch;
  record.prompt_tokens = 10, record.completion_tokens = 5;
  return record;
}

static tj_batches batches_of(tj_store *store, const tj_query *query) {
  tj_batches batches = TJ_BATCHES_INIT;
  CHECK_OK(tj_batch_stats(store, query, &batches, &error));
  return batches;
}

/* A batch of four calls, one a warm-up, one failed, one that measured nothing; and one of a call without energy. */
static void add_two_batches(tj_store *store) {
  tj_telemetry_record record = call_in("night", 200);
  record.energy_joules = 30.0;
  record.total_tokens = 999; /* what is counted is prompt and output */
  add(store, &record);
  record = call_in("night", 100);
  record.prompt_tokens = 20, record.completion_tokens = 10, record.energy_joules = 15.0, record.is_warmup = 1;
  add(store, &record);
  record = call_in("night", 300);
  record.completion_tokens = TJ_UNKNOWN, record.outcome = TJ_OUTCOME_ERROR;
  add(store, &record);
  record = call_in("night", 400);
  record.prompt_tokens = TJ_UNKNOWN, record.completion_tokens = TJ_UNKNOWN, record.model_id = "other";
  add(store, &record);
  record = call_in("day", 250);
  add(store, &record);
  record = call_in("", 500); /* in no batch */
  record.energy_joules = 1000.0;
  add(store, &record);
}

static void every_number_is_right(void) {
  tj_store *store = check_open(":memory:");
  tj_batches batches;
  const tj_batch *night, *day;
  int i;
  add_two_batches(store);
  batches = batches_of(store, NULL);
  CHECK_EQ(batches.batch_count, 2);
  night = &batches.batches[0], day = &batches.batches[1];
  CHECK_STR(night->batch_id, "night"), CHECK_EQ(night->total_requests, 4), CHECK_EQ(night->total_tokens, 55);
  CHECK_EQ(night->completion_tokens, 15), CHECK_EQ(night->failed_requests, 1);
  CHECK_NUM(night->total_energy_joules, 45.0);
  CHECK_NUM(night->energy_per_token_joules, 45.0 / 45.0); /* of the two calls that measured it */
  CHECK_NUM(night->energy_per_request_joules, 45.0 / 2.0);
  CHECK_NUM(night->oldest_timestamp, 100), CHECK_NUM(night->newest_timestamp, 400);
  CHECK_STR(day->batch_id, "day"), CHECK_EQ(day->total_requests, 1), CHECK_EQ(day->total_tokens, 15);
  CHECK_EQ(day->completion_tokens, 5), CHECK_EQ(day->failed_requests, 0);
  CHECK_NUM(day->total_energy_joules, 0.0), CHECK_NUM(day->energy_per_token_joules, 0.0); /* over nothing */
  CHECK_NUM(day->energy_per_request_joules, 0.0);
  CHECK_NUM(day->oldest_timestamp, 250), CHECK_NUM(day->newest_timestamp, 250);
  for (i = 0; i < 8; i++) {
    CHECK(night->reserved[i] == 0 && day->reserved[i] == 0);
  }
  tj_batches_free(&batches);
  CHECK_OK(tj_store_close(store, &error));
}

static void a_query_chooses_the_calls(void) {
  tj_store *store = check_open(":memory:");
  const tj_query everything = TJ_QUERY_INIT;
  tj_query query = everything;
  tj_batches batches;
  add_two_batches(store);

  query.exclude_warmup = 1;
  batches = batches_of(store, &query);
  CHECK_EQ(batches.batch_count, 2);
  CHECK_EQ(batches.batches[0].total_requests, 3), CHECK_EQ(batches.batches[0].total_tokens, 25);
  CHECK_EQ(batches.batches[0].completion_tokens, 5), CHECK_EQ(batches.batches[0].failed_requests, 1);
  CHECK_NUM(batches.batches[0].total_energy_joules, 30.0), CHECK_NUM(batches.batches[0].energy_per_token_joules, 2.0);
  CHECK_NUM(batches.batches[0].energy_per_request_joules, 30.0);
  CHECK_NUM(batches.batches[0].oldest_timestamp, 200);
  tj_batches_free(&batches);

#define CHOOSES(field, value, first, requests, count)                                                                  \
  (query = everything, query.field = value, batches = batches_of(store, &query), CHECK_EQ(batches.batch_count, count), \
   batches.batch_count == count && count > 0                                                                           \
       ? (CHECK_STR(batches.batches[0].batch_id, first), CHECK_EQ(batches.batches[0].total_requests, requests))        \
       : (void)0,                                                                                                      \
   tj_batches_free(&batches))
  CHOOSES(since, 300, "night", 2, 1), CHOOSES(since, 250, "night", 2, 2), CHOOSES(until, 250, "night", 2, 1);
  CHOOSES(until, nextafter(100, 200), "night", 1, 1), CHOOSES(until, 100, "", 0, 0);
  CHOOSES(model_id, "other", "night", 1, 1), CHOOSES(model_id, "none", "", 0, 0);
  CHOOSES(engine, "e", "night", 4, 2), CHOOSES(agent, "a", "", 0, 0);
  CHOOSES(batch_id, "day", "day", 1, 1), CHOOSES(batch_id, "none", "", 0, 0), CHOOSES(batch_id, "", "", 0, 0);
  CHOOSES(outcome_mask, 1u << TJ_OUTCOME_ERROR, "night", 1, 1), CHOOSES(token_counting_version, 3, "", 0, 0);
  CHOOSES(max_latency, 1.0, "night", 4, 2); /* objectives select nothing */
  CHECK_OK(tj_store_close(store, &error));
}

/* By total_requests descending, then by name ascending, byte by byte; the first n of them. */
static void batches_are_in_order(void) {
  static const struct {
    const char *name;
    int calls;
  } made[] = {{"b", 2}, {"a", 2}, {"z", 3}, {"B", 2}, {"\xC3\xA9", 2}, {"rare", 1}};
  static const char *const expected[] = {"z", "B", "a", "b", "\xC3\xA9", "rare"};
  const size_t count = sizeof made / sizeof *made;
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  size_t i;
  int n;
  for (n = 0; n < 3; n++) {
    for (i = 0; i < count; i++) {
      if (n < made[i].calls) {
        tj_telemetry_record record = call_in(made[i].name, 100 + n);
        add(store, &record);
      }
    }
  }
  for (query.limit = 0; query.limit <= count + 1; query.limit++) {
    size_t shown = query.limit == 0 || query.limit > count ? count : query.limit;
    tj_batches batches = batches_of(store, &query);
    CHECK_EQ(batches.batch_count, shown);
    for (i = 0; i < batches.batch_count; i++) {
      CHECK_STR(batches.batches[i].batch_id, expected[i]);
    }
    tj_batches_free(&batches);
  }
  CHECK_OK(tj_store_close(store, &error));
}

static void an_empty_store_has_no_batches(void) {
  tj_store *store = check_open(":memory:");
  tj_batches batches = batches_of(store, NULL);
  CHECK(batches.batches == NULL && batches.batch_count == 0);
  tj_batches_free(&batches);
  CHECK_OK(tj_store_close(store, &error));
}

static void batches_outlive_their_store(void) {
  tj_store *store = check_open(check_path("batches"));
  tj_batches batches;
  add_two_batches(store);
  batches = batches_of(store, NULL); /* its own records at once */
  CHECK_OK(tj_store_close(store, &error));
  CHECK_EQ(batches.batch_count, 2);
  CHECK_STR(batches.batches[0].batch_id, "night");
  tj_batches_free(&batches);
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"every number is right", every_number_is_right},
      {"a query chooses the calls", a_query_chooses_the_calls},
      {"batches are in order", batches_are_in_order},
      {"an empty store has no batches", an_empty_store_has_no_batches},
      {"batches outlive their store", batches_outlive_their_store},
  };
  return CHECK_MAIN(tests);
}
