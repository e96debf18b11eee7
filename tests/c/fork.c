/*
 * "A handle used in a forked child returns TJ_ERR_FORKED and touches nothing of the parent's; closing it there only
 * frees memory." And a child is a process like any other: it has a bus and stores of its own.
 */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>

static tj_store *store;
static int is_over = 1; /* the busy threads of the last test */

/*
 * Starts a child that ends with 0 if all its checks hold. What hangs in it is ended by SIGALRM. The store's own thread is
 * at rest when there is nothing to commit; a child that is forked while it is at work may open nothing.
 */
static pid_t start_child(void (*run)(void)) {
  pid_t child;
  fflush(NULL);
  if (is_over) {
    (void)tj_store_flush(store, NULL);
  }
  child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(10);
    check_failures = 0;
    run();
    _exit(check_failures == 0 ? 0 : 1);
  }
  return child;
}

static int end_child(pid_t child) {
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  if (WIFSIGNALED(status)) {
    check_fail(__FILE__, __LINE__, "the child was ended by signal %d%s", WTERMSIG(status),
               WTERMSIG(status) == SIGALRM ? ": it hung" : "");
  } else if (WEXITSTATUS(status) != 0) {
    check_fail(__FILE__, __LINE__, "the child failed");
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int in_a_child(void (*run)(void)) { return end_child(start_child(run)); }

static void record_into(tj_store *store, const char *model) {
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  record.model_id = model;
  CHECK_OK(tj_record(store, &record, &error));
}

static tj_call *begin(void) {
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call = NULL;
  request.model = "m";
  CHECK_OK(tj_call_begin("e", &request, &call, &error));
  return call;
}

static uint64_t count_in(const char *path) {
  tj_store *store = check_open(path);
  uint64_t count = check_count(store);
  CHECK_OK(tj_store_close(store, &error));
  return count;
}

/* ---- The parent's handles in the child ---- */

static int32_t see_no_record(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  (void)record, (void)record_id, (void)user_data;
  CHECK(0);
  return 0;
}

static void use_the_parents_store(void) {
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  tj_health health = TJ_HEALTH_INIT;
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_series series = TJ_SERIES_INIT;
  tj_batches batches = TJ_BATCHES_INIT;
  uint64_t number = 77;
  int round;
  record.model_id = "the child's";
  CHECK_FAILS(tj_record(store, &record, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_store_flush(store, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_store_count(store, &number, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_store_clear(store, &number, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_store_prune(store, 2e9, &number, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_store_health(store, &health, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_aggregate(store, NULL, &stats, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_aggregate_series(store, NULL, 1.0, &series, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_batch_stats(store, NULL, &batches, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_records_each(store, NULL, see_no_record, NULL, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_records_recent(store, NULL, see_no_record, NULL, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_store_verify(store, NULL, NULL, &number, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_store_rollup(store, NULL, NULL, &number, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_store_subscribe(store, &error), TJ_ERR_FORKED, "store");
  CHECK_FAILS(tj_store_unsubscribe(store, &error), TJ_ERR_FORKED, "store");
  for (round = 0; round < 2; round++) {
    CHECK_FAILS(tj_store_close(store, &error), TJ_ERR_FORKED, "store");
  }
  CHECK_EQ(number, 77);
  CHECK(health.recorded == 0 && stats.owner == NULL && series.owner == NULL && batches.owner == NULL);
}

static void a_store_says_that_it_is_the_parents(void) {
  static const char *const paths[] = {":memory:", "store"};
  int i;
  for (i = 0; i < 2; i++) {
    store = check_open(i == 0 ? paths[i] : check_path(paths[i]));
    CHECK_OK(tj_store_subscribe(store, &error));
    record_into(store, "before");
    in_a_child(use_the_parents_store);
    record_into(store, "after"); /* the parent goes on */
    tj_call_free(begin());
    CHECK_EQ(check_count(store), 3);
    CHECK_EQ(check_health(store).recorded, 3);
    CHECK_OK(tj_store_close(store, &error));
  }
  CHECK_EQ(count_in(check_path("store")), 3);
}

/* Also after the parent has closed it: a child does not know what the parent did since. */
static void record_on_the_parents_closed_store(void) {
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  record.model_id = "m";
  CHECK_FAILS(tj_record(store, &record, &error), TJ_ERR_FORKED, NULL);
}

static void a_closed_store_is_the_parents_all_the_same(void) {
  store = check_open(":memory:");
  CHECK_OK(tj_store_close(store, &error));
  in_a_child(record_on_the_parents_closed_store);
}

static tj_call *call;

static void use_the_parents_call(void) {
  tj_call_prompt(call, 99, 99); /* these cannot fail: they change the child's copy at most */
  tj_call_tokens(call, 99);
  tj_call_draft(call, 99, 99);
  tj_call_cancel(call);
  CHECK(tj_call_id(call) != 0);
  CHECK_FAILS(tj_call_end(call, TJ_OUTCOME_ERROR, NULL, &error), TJ_ERR_FORKED, "call");
  CHECK_FAILS(tj_call_end(call, TJ_OUTCOME_ERROR, NULL, &error), TJ_ERR_FORKED, "call");
  tj_call_free(call);
}

static void a_call_says_that_it_is_the_parents(void) {
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  store = check_open(check_path("call"));
  CHECK_OK(tj_store_subscribe(store, &error));
  call = begin();
  tj_call_tokens(call, 2);
  in_a_child(use_the_parents_call);
  CHECK(!tj_call_cancelled(call));
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
  CHECK_OK(tj_aggregate(store, NULL, &stats, &error));
  CHECK_EQ(stats.total_calls, 1), CHECK_EQ(stats.error_count, 0), CHECK_EQ(stats.total_tokens, 2);
  tj_aggregated_stats_free(&stats);
  CHECK_OK(tj_store_close(store, &error));
  CHECK_EQ(count_in(check_path("call")), 1);
}

static tj_bus_queue *queue;

static void use_the_parents_queue(void) {
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  CHECK_FAILS(tj_bus_poll(queue, 0, &polled, &error), TJ_ERR_FORKED, "queue");
  CHECK_FAILS(tj_bus_poll(queue, UINT32_MAX, &polled, &error), TJ_ERR_FORKED, "queue");
  CHECK_FAILS(tj_bus_queue_close(queue, &error), TJ_ERR_FORKED, "queue");
  CHECK_OK(tj_bus_publish("in the child", NULL, &error));
  tj_bus_queue_free(queue);
}

static void a_queue_says_that_it_is_the_parents(void) {
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  CHECK_OK(tj_bus_queue_open(TJ_EVENT_MASK(TJ_EVENT_CUSTOM), 4, &queue, &error));
  CHECK_OK(tj_bus_publish("one", NULL, &error));
  in_a_child(use_the_parents_queue);
  CHECK_OK(tj_bus_publish("two", NULL, &error));
  CHECK_OK(tj_bus_poll(queue, 0, &polled, &error));
  CHECK_STR(polled.event->name, "one");
  tj_polled_event_free(&polled);
  CHECK_OK(tj_bus_poll(queue, 0, &polled, &error));
  CHECK_STR(polled.event->name, "two");
  tj_polled_event_free(&polled);
  CHECK_FAILS(tj_bus_poll(queue, 0, &polled, &error), TJ_ERR_TIMEOUT, NULL);
  tj_bus_queue_free(queue);
}

static uint64_t subscription;
static int heard, dropped;

static void hear(const tj_event *event, void *user_data) { (void)event, (void)user_data, heard++; }
static void count_drop(void *user_data) { (void)user_data, dropped++; }

static void use_the_parents_subscription(void) {
  heard = 0;
  CHECK_FAILS(tj_bus_unsubscribe(subscription, &error), TJ_ERR_FORKED, "subscription");
  CHECK_OK(tj_bus_publish("in the child", NULL, &error)); /* the child starts with an empty bus */
  tj_call_free(begin());
  CHECK_EQ(heard, 0);
  CHECK_EQ(dropped, 0); /* what the parent's subscriber owns is the parent's to release */
  CHECK_FAILS(tj_bus_unsubscribe(UINT64_MAX, &error), TJ_ERR_NOT_FOUND, "subscription"); /* never was one */
}

static void a_subscription_says_that_it_is_the_parents(void) {
  heard = dropped = 0;
  CHECK_OK(tj_bus_subscribe(TJ_EVENT_MASK_ALL, hear, NULL, count_drop, &subscription, &error));
  in_a_child(use_the_parents_subscription);
  CHECK_OK(tj_bus_publish("in the parent", NULL, &error));
  CHECK_EQ(heard, 1);
  CHECK_OK(tj_bus_unsubscribe(subscription, &error));
  CHECK_EQ(dropped, 1);
}

static tj_aggregated_stats stats;
static tj_polled_event polled;

static void read_and_free_what_the_parent_got(void) {
  CHECK_EQ(stats.per_model_count, 1);
  CHECK_STR(stats.per_model[0].model_id, "mine");
  CHECK_STR(polled.event->name, "an event");
  tj_aggregated_stats_free(&stats);
  tj_polled_event_free(&polled);
}

/* Answers and polled events are memory, no handles. */
static void what_was_handed_out_can_be_used_in_the_child(void) {
  tj_aggregated_stats_init(&stats), tj_polled_event_init(&polled);
  store = check_open(":memory:");
  record_into(store, "mine");
  CHECK_OK(tj_aggregate(store, NULL, &stats, &error));
  CHECK_OK(tj_bus_queue_open(TJ_EVENT_MASK(TJ_EVENT_CUSTOM), 4, &queue, &error));
  CHECK_OK(tj_bus_publish("an event", NULL, &error));
  CHECK_OK(tj_bus_poll(queue, 0, &polled, &error));
  in_a_child(read_and_free_what_the_parent_got);
  read_and_free_what_the_parent_got();
  tj_bus_queue_free(queue);
  CHECK_OK(tj_store_close(store, &error));
}

static uint64_t window, source;

static int32_t read_ten_watts(tj_energy_reading *reading, void *user_data) {
  (void)user_data;
  reading->watts = 10.0;
  return 0;
}

static void register_a_meter(void) {
  tj_energy_custom custom = TJ_ENERGY_CUSTOM_INIT;
  custom.name = "meter";
  custom.read = read_ten_watts;
  custom.drop = count_drop;
  CHECK_OK(tj_energy_register_source(&custom, &source, &error));
}

static void measure_afresh(void) {
  tj_energy_window measured = TJ_ENERGY_WINDOW_INIT;
  tj_energy_totals totals = TJ_ENERGY_TOTALS_INIT;
  tj_energy_options options = TJ_ENERGY_OPTIONS_INIT;
  tj_store *own = check_open(":memory:");
  dropped = 0;
  CHECK_FAILS(tj_energy_window_end(window, &measured, &error), TJ_ERR_FORKED, "window");
  CHECK_FAILS(tj_energy_unregister_source(source, &error), TJ_ERR_FORKED, "source");
  CHECK_FAILS(tj_energy_read(&totals, &error), TJ_ERR_CLOSED, "energy");
  CHECK_FAILS(tj_energy_stop(&error), TJ_ERR_CLOSED, "energy");
  CHECK_EQ(dropped, 0); /* the parent's is the parent's */
  tj_call_free(call);

  register_a_meter();
  options.kinds = TJ_ENERGY_CUSTOM, options.interval_ms = 5;
  CHECK_OK(tj_energy_start(&options, &error));
  CHECK_OK(tj_store_subscribe(own, &error));
  tj_call_free(begin());
  CHECK_EQ(check_count(own), 1);
  CHECK_OK(tj_energy_read(&totals, &error));
  CHECK(totals.device_count == 1 && totals.is_running == 1 && totals.attributed_joules > 0);
  tj_energy_totals_free(&totals);
  CHECK_OK(tj_energy_stop(&error));
  CHECK_OK(tj_energy_unregister_source(source, &error));
  CHECK_EQ(dropped, 1);
  CHECK_OK(tj_store_close(own, &error));
}

static void a_child_begins_without_energy(void) {
  tj_energy_options options = TJ_ENERGY_OPTIONS_INIT;
  tj_energy_window measured = TJ_ENERGY_WINDOW_INIT;
  int round;
  options.kinds = TJ_ENERGY_CUSTOM, options.interval_ms = 1;
  store = check_open(check_path("energy"));
  CHECK_OK(tj_store_subscribe(store, &error));
  register_a_meter();
  CHECK_OK(tj_energy_start(&options, &error));
  CHECK_OK(tj_energy_window_begin(&window, &error));
  for (round = 0; round < 10; round++) { /* whatever the sampler is doing */
    call = begin();
    in_a_child(measure_afresh);
    CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
    tj_call_free(call);
  }
  CHECK_OK(tj_energy_window_end(window, &measured, &error));
  CHECK(measured.energy_joules > 0);
  CHECK_OK(tj_energy_stop(&error));
  dropped = 0;
  CHECK_OK(tj_energy_unregister_source(source, &error));
  CHECK_EQ(dropped, 1);
  CHECK_EQ(check_count(store), 10);
  CHECK_OK(tj_store_close(store, &error));
}

/* ---- A child's own ---- */

static uint64_t first_sequence;

static void keep_first(const tj_event *event, void *user_data) {
  (void)user_data;
  first_sequence = first_sequence == 0 ? event->sequence : first_sequence;
}

static void have_an_own_bus_and_store(void) {
  uint64_t own;
  tj_store *own_store = check_open(":memory:");
  CHECK_OK(tj_bus_subscribe(TJ_EVENT_MASK_ALL, keep_first, NULL, NULL, &own, &error));
  CHECK_OK(tj_store_subscribe(own_store, &error));
  tj_call_free(begin());
  CHECK_EQ(first_sequence, 1); /* "numbers the events of this process, from 1" */
  CHECK_EQ(check_count(own_store), 1);
  CHECK_OK(tj_bus_unsubscribe(own, &error));
  CHECK_FAILS(tj_bus_unsubscribe(own, &error), TJ_ERR_NOT_FOUND, NULL);
  CHECK_OK(tj_store_close(own_store, &error));
}

static void have_an_own_bus_and_store_and_child(void) {
  have_an_own_bus_and_store();
  CHECK_OK(tj_bus_subscribe(TJ_EVENT_MASK_ALL, hear, NULL, NULL, &subscription, &error));
  first_sequence = 0;
  in_a_child(have_an_own_bus_and_store);
  in_a_child(use_the_parents_subscription); /* of a child's child, too */
}

static void a_child_has_a_bus_and_stores_of_its_own(void) {
  store = check_open(":memory:");
  CHECK_OK(tj_store_subscribe(store, &error));
  dropped = 0;
  in_a_child(have_an_own_bus_and_store_and_child);
  CHECK_EQ(check_count(store), 0); /* nothing of that is the parent's */
  CHECK_OK(tj_store_close(store, &error));
}

static void record_10_into_the_same_database(void) {
  tj_store *own = check_open(check_path("same"));
  int n;
  for (n = 0; n < 10; n++) {
    record_into(own, "the child's");
  }
  CHECK(check_count(own) >= 10);
  CHECK_OK(tj_store_close(own, &error));
}

static void a_child_may_open_the_parents_database(void) {
  int n;
  store = check_open(check_path("same"));
  record_into(store, "the parent's");
  for (n = 0; n < 3; n++) {
    pid_t child = start_child(record_10_into_the_same_database);
    record_into(store, "the parent's"); /* at the same time */
    end_child(child);
  }
  CHECK_EQ(check_count(store), 34);
  CHECK_OK(tj_store_close(store, &error));
  CHECK_EQ(count_in(check_path("same")), 34);
}

static int to_parent[2], to_child[2];

static void tell(int *pipe_ends) { CHECK(write(pipe_ends[1], "x", 1) == 1); }
static void hear_from(int *pipe_ends) {
  char byte;
  CHECK(read(pipe_ends[0], &byte, 1) == 1);
}

static void record_before_and_after_the_parent_closes(void) {
  tj_store *own = check_open(check_path("outlived"));
  record_into(own, "before");
  tell(to_parent);
  hear_from(to_child);
  record_into(own, "after"), record_into(own, "after"), record_into(own, "after");
  CHECK_EQ(check_count(own), 5);
  CHECK_OK(tj_store_close(own, &error));
}

/* The parent closes first: that must not take away what the child records. */
static void a_child_outlives_the_parents_store(void) {
  pid_t child;
  CHECK(pipe(to_parent) == 0 && pipe(to_child) == 0);
  store = check_open(check_path("outlived"));
  record_into(store, "the parent's");
  child = start_child(record_before_and_after_the_parent_closes);
  hear_from(to_parent);
  CHECK_OK(tj_store_close(store, &error));
  tell(to_child);
  end_child(child);
  CHECK_EQ(count_in(check_path("outlived")), 5);
}

/* The other way round: what the parent records after the child has closed its store. */
static void a_parent_outlives_the_childs_store(void) {
  uint64_t before;
  store = check_open(check_path("same"));
  before = check_count(store);
  in_a_child(record_10_into_the_same_database);
  record_into(store, "the parent's");
  CHECK_EQ(check_count(store), before + 11);
  CHECK_OK(tj_store_close(store, &error));
  CHECK_EQ(count_in(check_path("same")), before + 11);
}

static void record_while_the_grandparent_records(void) {
  tj_store *own = check_open(check_path("orphan"));
  record_into(own, "the orphan's");
  CHECK_OK(tj_store_flush(own, &error)); /* other processes see it now, and not within commit_interval_ms */
  tell(to_parent); /* the parent may die, and the grandparent open the database */
  hear_from(to_child);
  record_into(own, "the orphan's");
  CHECK_EQ(check_count(own), 4);
  tell(to_parent);
  hear_from(to_child);
  record_into(own, "the orphan's");
  CHECK_OK(tj_store_close(own, &error));
  tell(to_parent);
}

static void open_fork_and_die(void) {
  store = check_open(check_path("orphan"));
  record_into(store, "the parent's");
  start_child(record_while_the_grandparent_records);
  hear_from(to_parent); /* dies without closing anything */
}

/* A child whose parent has died shares its database with others as any process does. */
static void a_child_outlives_its_parent(void) {
  CHECK(pipe(to_parent) == 0 && pipe(to_child) == 0);
  in_a_child(open_fork_and_die);
  store = check_open(check_path("orphan"));
  record_into(store, "the grandparent's");
  CHECK_EQ(check_count(store), 3);
  tell(to_child);
  hear_from(to_parent);
  record_into(store, "the grandparent's");
  CHECK_EQ(check_count(store), 5);
  tell(to_child);
  hear_from(to_parent);
  CHECK_EQ(check_count(store), 6);
  CHECK_OK(tj_store_close(store, &error));
  CHECK_EQ(count_in(check_path("orphan")), 6);
}

/* Servers that fork their workers first and open the store in each of them. */
static void record_25(void) {
  tj_store *own = check_open(check_path("workers"));
  int n;
  CHECK_OK(tj_store_subscribe(own, &error));
  for (n = 0; n < 25; n++) {
    tj_call_free(begin());
  }
  CHECK_OK(tj_store_close(own, &error));
}

static void workers_forked_first_may_all_record(void) {
  pid_t children[4];
  int i;
  for (i = 0; i < 4; i++) {
    children[i] = start_child(record_25);
  }
  for (i = 0; i < 4; i++) {
    end_child(children[i]);
  }
  CHECK_EQ(count_in(check_path("workers")), 100);
}

/* ---- Forks in the middle of something ---- */

static int32_t fork_in_the_engine(void *engine_data, const tj_generate_request *request, tj_call *lent,
                                  tj_generate_result *result) {
  (void)request;
  tj_call_tokens(lent, 3);
  *(pid_t *)engine_data = fork();
  result->finish_reason = "stop";
  return 0;
}

/* The child comes back from the engine as well, and must not record the parent's call a second time. */
static void an_engine_may_fork(void) {
  pid_t child = -1;
  tj_engine engine = TJ_ENGINE_INIT;
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_status status;
  store = check_open(check_path("engine"));
  CHECK_OK(tj_store_subscribe(store, &error));
  engine.generate = fork_in_the_engine, engine.engine_data = &child;
  request.model = "m";
  fflush(NULL);
  status = tj_instrumented_generate(&engine, &request, &result, &error);
  if (child == 0) {
    _exit(status == TJ_ERR_FORKED && error.status == TJ_ERR_FORKED && result.finish_reason == NULL ? 0 : 1);
  }
  CHECK_EQ(status, TJ_OK);
  CHECK_STR(result.finish_reason, "stop");
  end_child(child);
  CHECK_EQ(check_count(store), 1);
  CHECK_OK(tj_store_close(store, &error));
  CHECK_EQ(count_in(check_path("engine")), 1);
}

static void fork_in_the_callback(const tj_event *event, void *user_data) {
  if (strcmp(event->name, "fork") == 0) {
    in_a_child(use_the_parents_subscription);
    *(int *)user_data += 1;
  }
}

static void a_callback_may_fork(void) {
  int forks = 0;
  dropped = 0;
  CHECK_OK(tj_bus_subscribe(TJ_EVENT_MASK(TJ_EVENT_CUSTOM), fork_in_the_callback, &forks, count_drop, &subscription,
                            &error));
  CHECK_OK(tj_bus_publish("fork", NULL, &error));
  CHECK_OK(tj_bus_unsubscribe(subscription, &error));
  CHECK_EQ(forks, 1);
  CHECK_EQ(dropped, 1);
}


static void *record_and_publish(void *user_data) {
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  (void)user_data;
  record.model_id = request.model = "m";
  while (!__atomic_load_n(&is_over, __ATOMIC_SEQ_CST)) {
    uint64_t mine;
    tj_call *own;
    CHECK_EQ(tj_record(store, &record, NULL), TJ_OK);
    CHECK_EQ(tj_bus_publish("from a thread", "{\"n\":1}", NULL), TJ_OK);
    CHECK_EQ(tj_bus_subscribe(TJ_EVENT_MASK(TJ_EVENT_CUSTOM), hear, NULL, NULL, &mine, NULL), TJ_OK);
    CHECK_EQ(tj_bus_unsubscribe(mine, NULL), TJ_OK);
    CHECK_EQ(tj_call_begin("e", &request, &own, NULL), TJ_OK);
    tj_call_free(own);
  }
  return NULL;
}

static void *open_and_close(void *user_data) {
  (void)user_data;
  while (!__atomic_load_n(&is_over, __ATOMIC_SEQ_CST)) {
    tj_store *own = NULL;
    CHECK_EQ(tj_store_open(":memory:", NULL, &own, NULL), TJ_OK);
    CHECK_EQ(tj_store_close(own, NULL), TJ_OK);
  }
  return NULL;
}

/* The parent's threads are not in the child, and whatever they held is held for ever there. */
static void do_everything_afresh(void) {
  uint64_t own;
  tj_store *own_store;
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  record.model_id = "m";
  CHECK_EQ(tj_record(store, &record, NULL), TJ_ERR_FORKED);
  CHECK_OK(tj_bus_subscribe(TJ_EVENT_MASK_ALL, hear, NULL, NULL, &own, &error));
  CHECK_OK(tj_bus_publish("x", NULL, &error));
  CHECK_OK(tj_bus_unsubscribe(own, &error));
  CHECK_EQ(tj_store_close(store, NULL), TJ_ERR_FORKED);
  /* Where a thread was inside a store at the moment of the fork, a child is told so instead of waiting for ever. */
  if (tj_store_open(":memory:", NULL, &own_store, NULL) == TJ_ERR_FORKED) {
    CHECK_FAILS(tj_store_open(check_path("busy"), NULL, &own_store, &error), TJ_ERR_FORKED, "busy");
    return;
  }
  CHECK_OK(tj_store_subscribe(own_store, &error));
  tj_call_free(begin());
  CHECK_EQ(check_count(own_store), 1);
  CHECK_OK(tj_store_close(own_store, &error));
  if (tj_store_open(check_path("busy"), NULL, &own_store, NULL) == TJ_ERR_FORKED) {
    return; /* a thread held this store, if it was not inside SQLite yet */
  }
  record_into(own_store, "the child's");
  CHECK_OK(tj_store_close(own_store, &error));
}

static void a_fork_amid_busy_threads_hangs_nobody(void) {
  pthread_t threads[3];
  tj_aggregated_stats childrens = TJ_AGGREGATED_STATS_INIT;
  tj_query by_children = TJ_QUERY_INIT;
  uint64_t before;
  int i;
  is_over = 0;
  store = check_open(check_path("busy"));
  for (i = 0; i < 3; i++) {
    CHECK(pthread_create(&threads[i], NULL, i < 2 ? record_and_publish : open_and_close, NULL) == 0);
  }
  for (i = 0; i < 40; i++) {
    if (!in_a_child(do_everything_afresh)) {
      break; /* once is enough */
    }
  }
  __atomic_store_n(&is_over, 1, __ATOMIC_SEQ_CST);
  for (i = 0; i < 3; i++) {
    pthread_join(threads[i], NULL);
  }
  before = check_count(store);
  by_children.model_id = "the child's";
  CHECK_OK(tj_aggregate(store, &by_children, &childrens, &error));
  CHECK_EQ(before, check_health(store).recorded + childrens.total_calls);
  tj_aggregated_stats_free(&childrens);
  CHECK_OK(tj_store_close(store, &error));
  CHECK_EQ(count_in(check_path("busy")), before);
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"workers forked first may all record", workers_forked_first_may_all_record},
      {"a store says that it is the parent's", a_store_says_that_it_is_the_parents},
      {"a closed store is the parent's all the same", a_closed_store_is_the_parents_all_the_same},
      {"a call says that it is the parent's", a_call_says_that_it_is_the_parents},
      {"a queue says that it is the parent's", a_queue_says_that_it_is_the_parents},
      {"a subscription says that it is the parent's", a_subscription_says_that_it_is_the_parents},
      {"what was handed out can be used in the child", what_was_handed_out_can_be_used_in_the_child},
      {"a child begins without energy", a_child_begins_without_energy},
      {"a child has a bus and stores of its own", a_child_has_a_bus_and_stores_of_its_own},
      {"a child may open the parent's database", a_child_may_open_the_parents_database},
      {"a child outlives the parent's store", a_child_outlives_the_parents_store},
      {"a parent outlives the child's store", a_parent_outlives_the_childs_store},
      {"a child outlives its parent", a_child_outlives_its_parent},
      {"an engine may fork", an_engine_may_fork},
      {"a callback may fork", a_callback_may_fork},
      {"a fork amid busy threads hangs nobody", a_fork_amid_busy_threads_hangs_nobody},
  };
  return CHECK_MAIN(tests);
}
