/*
 * tj_records_each and tj_records_recent: what was recorded comes back, one by one.
 */
#include "calls.h"
#include "fields.h"

/* What a callback saw, and what it is to do. */
typedef struct seen {
  size_t count;
  int64_t ids[4096];
  double times[4096];
  size_t stop_at;     /* 0: never */
  int32_t stop_code;
  tj_store *store;    /* what the callback uses */
} seen;

static seen *fresh(void) {
  static seen it;
  memset(&it, 0, sizeof it);
  return &it;
}

static int32_t see(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  seen *it = (seen *)user_data;
  CHECK_EQ(record->struct_size, sizeof *record);
  if (it->count < 4096) {
    it->ids[it->count] = record_id, it->times[it->count] = record->timestamp;
  }
  it->count++;
  return it->count == it->stop_at ? it->stop_code : 0;
}

static seen *each(tj_store *store, const tj_query *query) {
  seen *it = fresh();
  CHECK_OK(tj_records_each(store, query, see, it, &error));
  return it;
}

static seen *recent(tj_store *store, const tj_query *query) {
  seen *it = fresh();
  CHECK_OK(tj_records_recent(store, query, see, it, &error));
  return it;
}

/* At 1000, 1001, ...: more than fit into one of the library's gulps. */
static void add_many(tj_store *store, int count) {
  int n;
  for (n = 0; n < count; n++) {
    tj_telemetry_record record = call_of(n % 2 ? "odd" : "even", "e", 1000 + n);
    record.is_warmup = n % 10 == 0, record.batch_id = n % 4 == 0 ? "b" : "", record.agent = n % 3 == 0 ? "a" : "";
    add(store, &record);
  }
}

/* ---- What comes back ---- */

static tj_telemetry_record expected;
static int compared;

static int32_t compare(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  tj_telemetry_record got = *record;
  const field *it;
  (void)user_data;
  CHECK(record_id > 0);
  for (EACH(it, figures)) {
    check_num(*figure_of(&got, it), *figure_of(&expected, it), 0, it->name, __FILE__, __LINE__);
  }
  for (EACH(it, counts)) {
    check_eq(*count_of(&got, it), *count_of(&expected, it), it->name, __FILE__, __LINE__);
  }
  for (EACH(it, texts)) {
    check_str(*text_of(&got, it), *text_of(&expected, it), it->name, __FILE__, __LINE__);
  }
  CHECK_NUM(got.timestamp, expected.timestamp);
  CHECK_EQ(got.is_warmup, expected.is_warmup), CHECK_EQ(got.is_streaming, expected.is_streaming);
  CHECK_EQ(got.token_counting_version, expected.token_counting_version), CHECK_EQ(got.outcome, expected.outcome);
  CHECK_STR(got.metadata_json, expected.metadata_json);
  compared++;
  return 0;
}

/* Records `in` and reads `expected`, from a store in memory and from a file that is opened again. */
static void comes_back(const tj_telemetry_record *in) {
  int round;
  for (round = 0; round < 2; round++) {
    const char *path = round == 0 ? ":memory:" : check_path("comes-back");
    tj_store *store = check_open(path);
    uint64_t deleted;
    CHECK_OK(tj_store_clear(store, &deleted, &error));
    add(store, in);
    if (round == 1) {
      CHECK_OK(tj_store_close(store, &error));
      store = check_open(path);
    }
    compared = 0;
    CHECK_OK(tj_records_each(store, NULL, compare, NULL, &error));
    CHECK_OK(tj_records_recent(store, NULL, compare, NULL, &error));
    CHECK_EQ(compared, 2);
    CHECK_OK(tj_store_close(store, &error));
  }
}

static void every_field_comes_back_as_recorded(void) {
  static char values[32][64];
  const field *it;
  int number = 1, text = 0;
  expected = call_of("m", "e", 1700000000.125);
  for (EACH(it, figures)) {
    *figure_of(&expected, it) = number++ + 0.1;
  }
  for (EACH(it, counts)) {
    *count_of(&expected, it) = (UINT64_C(1) << 40) + (uint64_t)number++;
  }
  for (EACH(it, texts)) {
    snprintf(values[text], sizeof values[text], "%s-\xC3\xA9", it->name);
    *text_of(&expected, it) = values[text++];
  }
  expected.is_warmup = expected.is_streaming = 1;
  expected.token_counting_version = 3, expected.outcome = TJ_OUTCOME_INTERRUPTED;
  expected.metadata_json = "{\"gpu\": \"none\", \"n\": [1, 2]}";
  comes_back(&expected);
}

static void unknown_comes_back_as_unknown(void) {
  const field *it;
  tj_telemetry_record in = call_of("m", NULL, 1000);
  for (EACH(it, figures)) {
    *figure_of(&in, it) = NAN;
  }
  for (EACH(it, counts)) {
    *count_of(&in, it) = TJ_UNKNOWN;
  }
  expected = in;
  for (EACH(it, texts)) {
    if (*text_of(&expected, it) == NULL) {
      *text_of(&expected, it) = "";
    }
  }
  expected.metadata_json = "{}";
  comes_back(&in);
}

/* Where 0 cannot be, it was not measured; elsewhere it was. */
static void zero_comes_back_as_what_it_means(void) {
  const field *it;
  tj_telemetry_record in = call_of("m", NULL, 1000);
  expected = in;
#define UNMEASURED(field) expected.field = NAN;
  EXTENTS(UNMEASURED)
  expected.std_itl_ms = NAN; /* a measurement where mean_itl_ms is one */
  for (EACH(it, texts)) {
    if (*text_of(&expected, it) == NULL) {
      *text_of(&expected, it) = "";
    }
  }
  expected.metadata_json = "{}";
  comes_back(&in);
  in.mean_itl_ms = expected.mean_itl_ms = 5, expected.std_itl_ms = 0;
  in.prompt_tokens = expected.prompt_tokens = 7, expected.total_tokens = 7; /* 0: prompt and output */
  comes_back(&in);
}

static size_t largest;

static int32_t measure(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  size_t length = strlen(record->metadata_json);
  (void)record_id, (void)user_data;
  CHECK(record->metadata_json[0] == '{' && record->metadata_json[length - 1] == '}');
  largest = length > largest ? length : largest;
  return 0;
}

static void large_records_come_back_whole(void) {
  const size_t size = 1024 * 1024;
  char *json = (char *)malloc(size + 1);
  tj_store *store = check_open(":memory:");
  int n;
  memset(json, ' ', size);
  json[0] = '{', json[size - 1] = '}', json[size] = 0;
  for (n = 0; n < 4; n++) {
    tj_telemetry_record record = call_of("m", "e", 1000 + n);
    record.metadata_json = n == 1 ? NULL : json;
    add(store, &record);
  }
  CHECK_OK(tj_records_each(store, NULL, measure, NULL, &error));
  CHECK_EQ(largest, size);
  CHECK_EQ(each(store, NULL)->count, 4);
  CHECK_OK(tj_store_close(store, &error));
  free(json);
}

/* ---- Which, and in what order ---- */

static void a_thousand_come_oldest_first_or_newest_first(void) {
  const char *const paths[] = {":memory:", "thousand"};
  int round, n;
  for (round = 0; round < 2; round++) {
    tj_store *store = check_open(round == 0 ? paths[round] : check_path(paths[round]));
    seen *it;
    add_many(store, 1000);
    it = each(store, NULL); /* its own records at once */
    CHECK_EQ(it->count, 1000);
    for (n = 0; n < 1000; n++) {
      CHECK_NUM(it->times[n], 1000 + n), CHECK_EQ(it->ids[n], n + 1);
    }
    it = recent(store, NULL);
    CHECK_EQ(it->count, 1000);
    for (n = 0; n < 1000; n++) {
      CHECK_NUM(it->times[n], 1999 - n), CHECK_EQ(it->ids[n], 1000 - n);
    }
    CHECK_OK(tj_store_close(store, &error));
  }
}

/* By time, not by when they were recorded; equal times by id. */
static void the_order_is_by_time_and_then_by_id(void) {
  static const double times[] = {30, 10, 20, 10, 30, 10};
  static const int64_t by_time[] = {2, 4, 6, 3, 1, 5};
  tj_store *store = check_open(":memory:");
  seen *it;
  size_t i;
  int n;
  for (i = 0; i < 6; i++) {
    tj_telemetry_record record = call_of("m", "e", times[i]);
    add(store, &record);
  }
  for (it = each(store, NULL), i = 0; i < 6; i++) {
    CHECK_EQ(it->ids[i], by_time[i]);
  }
  for (it = recent(store, NULL), i = 0; i < 6; i++) {
    CHECK_EQ(it->ids[i], by_time[5 - i]);
  }
  for (n = 0; n < 700; n++) { /* many of one moment */
    tj_telemetry_record record = call_of("m", "e", 40);
    add(store, &record);
  }
  it = each(store, NULL);
  CHECK_EQ(it->count, 706);
  for (i = 6; i < 706; i++) {
    CHECK_EQ(it->ids[i], i + 1);
  }
  it = recent(store, NULL);
  CHECK_EQ(it->count, 706);
  CHECK_EQ(it->ids[0], 706), CHECK_EQ(it->ids[699], 7);
  CHECK_OK(tj_store_close(store, &error));
}

static void a_limit_is_the_most_that_come(void) {
  static const uint32_t limits[] = {1, 2, 255, 256, 257, 999, 1000, 1001};
  tj_store *store = check_open(":memory:");
  const uint32_t *limit;
  add_many(store, 1000);
  for (EACH(limit, limits)) {
    size_t shown = *limit < 1000 ? *limit : 1000;
    tj_query query = TJ_QUERY_INIT;
    seen *it;
    query.limit = *limit;
    it = each(store, &query);
    CHECK_EQ(it->count, shown);
    CHECK_NUM(it->times[shown - 1], 1000 + (double)shown - 1);
    it = recent(store, &query); /* the last calls */
    CHECK_EQ(it->count, shown);
    CHECK_NUM(it->times[0], 1999), CHECK_NUM(it->times[shown - 1], 2000 - (double)shown);
  }
  CHECK_OK(tj_store_close(store, &error));
}

static void a_query_chooses_the_records(void) {
  tj_store *store = check_open(":memory:");
  const tj_query everything = TJ_QUERY_INIT;
  tj_query query;
  add_many(store, 1000);
#define CHOOSES(field, value, expected)                                                                                \
  (query = everything, query.field = value, CHECK_EQ(each(store, &query)->count, expected),                            \
   CHECK_EQ(recent(store, &query)->count, expected), CHECK_EQ(calls(store, &query), expected))
  CHOOSES(since, 1500, 500), CHOOSES(until, 1500, 500), CHOOSES(model_id, "odd", 500), CHOOSES(model_id, "none", 0);
  CHOOSES(engine, "e", 1000), CHOOSES(engine, "", 0), CHOOSES(agent, "a", 334), CHOOSES(batch_id, "b", 250);
  CHOOSES(batch_id, "", 750), CHOOSES(exclude_warmup, 1, 900), CHOOSES(outcome_mask, 2, 0);
  CHOOSES(token_counting_version, 1, 0), CHOOSES(max_latency, 1.0, 1000); /* objectives select nothing */
  query = everything;
  query.since = 1001, query.until = 1003, query.model_id = "odd";
  CHECK_EQ(each(store, &query)->count, 1);
  query.until = 1001;
  CHECK_EQ(each(store, &query)->count, 0);
  query = everything, query.model_id = "odd", query.limit = 3; /* so many of those that are chosen */
  CHECK_EQ(each(store, &query)->count, 3);
  CHECK_OK(tj_store_close(store, &error));
}

/* ---- The callback ---- */

static void anything_but_0_is_the_end(void) {
  static const int32_t codes[] = {1, -1, INT32_MIN, INT32_MAX};
  static const size_t stops[] = {1, 2, 256, 257, 600};
  tj_store *store = check_open(":memory:");
  const int32_t *code;
  const size_t *stop;
  add_many(store, 600);
  for (EACH(code, codes)) {
    for (EACH(stop, stops)) {
      seen *it = fresh();
      it->stop_at = *stop, it->stop_code = *code;
      CHECK_OK(tj_records_each(store, NULL, see, it, &error));
      CHECK_EQ(it->count, *stop);
      it->count = 0;
      CHECK_OK(tj_records_recent(store, NULL, see, it, &error));
      CHECK_EQ(it->count, *stop);
    }
  }
  CHECK_OK(tj_store_close(store, &error));
}

static int32_t record_and_ask(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  seen *it = (seen *)user_data;
  tj_telemetry_record more = *record; /* with its strings */
  more.timestamp = record->timestamp + (it->count % 2 ? 0.5 : -0.5);
  CHECK_OK(tj_record(it->store, &more, &error));
  if (it->count % 100 == 0) {
    uint64_t number;
    CHECK_EQ(calls(it->store, NULL), 600 + it->count + 1);
    CHECK_OK(tj_store_flush(it->store, &error));
    CHECK_OK(tj_store_rollup(it->store, NULL, NULL, &number, &error));
  }
  return see(record, record_id, user_data);
}

static int32_t read_within(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  seen *it = (seen *)user_data;
  static seen inner;
  tj_query query = TJ_QUERY_INIT;
  query.limit = 3;
  inner.count = 0;
  CHECK_OK(tj_records_recent(it->store, &query, see, &inner, &error));
  CHECK_EQ(inner.count, 3);
  CHECK(*record->model_id != 0); /* still there */
  return see(record, record_id, user_data);
}

/* "No lock held": it may use the store, and what it records is not part of the reading, or that would never end. */
static void it_may_use_the_store(void) {
  const char *const paths[] = {":memory:", "used"};
  int round;
  for (round = 0; round < 2; round++) {
    tj_store *store = check_open(round == 0 ? paths[round] : check_path(paths[round]));
    seen *it = fresh();
    add_many(store, 600);
    it->store = store;
    CHECK_OK(tj_records_each(store, NULL, record_and_ask, it, &error));
    CHECK_EQ(it->count, 600);
    CHECK_EQ(check_count(store), 1200);
    it = fresh();
    it->store = store, it->stop_at = 300, it->stop_code = 1;
    CHECK_OK(tj_records_each(store, NULL, read_within, it, &error));
    CHECK_EQ(it->count, 300);
    CHECK_OK(tj_store_close(store, &error));
  }
}

static int32_t close_at_stop(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  seen *it = (seen *)user_data;
  (void)record, (void)record_id;
  it->count++;
  if (it->count == it->stop_at) {
    CHECK_OK(tj_store_close(it->store, &error));
    check_poison_error(); /* as the reading that goes on found it */
    CHECK_STR(record->model_id, record_id % 2 ? "even" : "odd"); /* valid all the same */
    return it->stop_code;
  }
  return 0;
}

/* It may close it as well: no more records come then. */
static void it_may_close_the_store(void) {
  static const size_t stops[] = {1, 3, 256, 300};
  const size_t *stop;
  for (EACH(stop, stops)) {
    int round;
    for (round = 0; round < 4; round++) {
      tj_store *store = check_open(round < 2 ? ":memory:" : check_path("closed-within"));
      uint64_t deleted;
      seen *it = fresh();
      CHECK_OK(tj_store_clear(store, &deleted, &error));
      add_many(store, 300);
      it->store = store, it->stop_at = *stop, it->stop_code = round % 2;
      if (it->stop_code == 0) {
        CHECK_FAILS(tj_records_each(store, NULL, close_at_stop, it, &error), TJ_ERR_CLOSED, "store");
      } else { /* it wanted no more, and that was so */
        CHECK_OK(tj_records_each(store, NULL, close_at_stop, it, &error));
      }
      CHECK_EQ(it->count, *stop);
      CHECK_FAILS(tj_records_each(store, NULL, see, it, &error), TJ_ERR_CLOSED, "store");
    }
    unlink(check_path("closed-within"));
  }
}

static void it_is_not_called_if_the_question_is_refused(void) {
  tj_store *store = check_open(":memory:");
  tj_query query = TJ_QUERY_INIT;
  seen *it = fresh();
  add_many(store, 3);
  query.since = NAN;
  CHECK_FAILS(tj_records_each(store, &query, see, it, &error), TJ_ERR_INVALID_ARGUMENT, "since");
  CHECK_FAILS(tj_records_recent(store, &query, see, it, &error), TJ_ERR_INVALID_ARGUMENT, "since");
  query.since = 0, query.agent = "\xFF";
  CHECK_FAILS(tj_records_each(store, &query, see, it, &error), TJ_ERR_INVALID_ARGUMENT, "agent");
  query.agent = NULL, query.struct_size = 1;
  CHECK_FAILS(tj_records_recent(store, &query, see, it, &error), TJ_ERR_INVALID_ARGUMENT, "query.struct_size");
  CHECK_EQ(it->count, 0);
  CHECK_OK(tj_store_close(store, &error));
}

static void an_empty_store_has_no_records(void) {
  tj_store *store = check_open(":memory:");
  CHECK_EQ(each(store, NULL)->count, 0);
  CHECK_EQ(recent(store, NULL)->count, 0);
  CHECK_OK(tj_store_close(store, &error));
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"every field comes back as recorded", every_field_comes_back_as_recorded},
      {"unknown comes back as unknown", unknown_comes_back_as_unknown},
      {"zero comes back as what it means", zero_comes_back_as_what_it_means},
      {"large records come back whole", large_records_come_back_whole},
      {"a thousand come oldest first, or newest first", a_thousand_come_oldest_first_or_newest_first},
      {"the order is by time, and then by id", the_order_is_by_time_and_then_by_id},
      {"a limit is the most that come", a_limit_is_the_most_that_come},
      {"a query chooses the records", a_query_chooses_the_records},
      {"anything but 0 is the end", anything_but_0_is_the_end},
      {"it may use the store", it_may_use_the_store},
      {"it may close the store", it_may_close_the_store},
      {"it is not called if the question is refused", it_is_not_called_if_the_question_is_refused},
      {"an empty store has no records", an_empty_store_has_no_records},
  };
  return CHECK_MAIN(tests);
}
