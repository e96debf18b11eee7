/*
 * Polling the bus: what a queue holds, loses and hands out, and who waits for whom.
 */
#include "custom.h"

#include <pthread.h>

/* Of each thread in the tests with many. */
static int loops(void) { return check_is_quick ? 25 : 400; }

static tj_bus_queue *open_queue(uint64_t mask, uint32_t capacity) {
  tj_bus_queue *queue = NULL;
  CHECK_OK(tj_bus_queue_open(mask, capacity, &queue, &error));
  return queue;
}

static tj_polled_event poll(tj_bus_queue *queue) {
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  CHECK_OK(tj_bus_poll(queue, 1000, &polled, &error));
  return polled;
}

#define EXPECT_POLLED(queue, event_name, lost_before)                                                                  \
  do {                                                                                                                 \
    tj_polled_event polled_ = poll(queue);                                                                             \
    if (polled_.event != NULL) {                                                                                       \
      CHECK_STR(polled_.event->name, event_name);                                                                      \
      CHECK_EQ(polled_.lost, lost_before);                                                                             \
    }                                                                                                                  \
    tj_polled_event_free(&polled_);                                                                                    \
  } while (0)

#define EXPECT_NONE(queue, status)                                                                                     \
  do {                                                                                                                 \
    tj_polled_event polled_ = TJ_POLLED_EVENT_INIT;                                                                    \
    CHECK_FAILS(tj_bus_poll(queue, 0, &polled_, &error), status, NULL);                                                \
  } while (0)

/* "Holds at most `capacity`; further events are lost and counted", and told with the next one. */
static void a_full_queue_counts_what_it_loses(void) {
  tj_bus_queue *queue = open_queue(CUSTOM, 2);
  publish("1"), publish("2"), publish("3"), publish("4"), publish("5");
  EXPECT_POLLED(queue, "1", 0);
  publish("6"); /* fits again; 3, 4 and 5 were lost before it */
  publish("7");
  EXPECT_POLLED(queue, "2", 0);
  EXPECT_POLLED(queue, "6", 3);
  publish("8"), publish("9"), publish("10");
  EXPECT_POLLED(queue, "8", 1); /* 7 */
  EXPECT_POLLED(queue, "9", 0);
  EXPECT_NONE(queue, TJ_ERR_TIMEOUT);
  publish("11");
  EXPECT_POLLED(queue, "11", 1); /* 10, though the queue has been empty since */
  tj_bus_queue_free(queue);
}

static void a_queue_takes_only_its_kinds_from_its_opening_on(void) {
  tj_bus_queue *queue;
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call;
  publish("before");
  queue = open_queue(TJ_EVENT_MASK(TJ_EVENT_TELEMETRY_RECORD), 8);
  publish("not this kind");
  request.model = "m";
  CHECK_OK(tj_call_begin("e", &request, &call, &error));
  tj_call_free(call);
  EXPECT_POLLED(queue, "telemetry_record", 0);
  EXPECT_NONE(queue, TJ_ERR_TIMEOUT);
  tj_bus_queue_free(queue);
}

/* "The event; valid until tj_polled_event_free", whatever becomes of the publisher's memory, the call and the queue. */
static void a_polled_event_is_a_copy(void) {
  tj_bus_queue *queue = open_queue(TJ_EVENT_MASK_ALL, 8);
  tj_polled_event start, end, custom;
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_generate_result result = TJ_GENERATE_RESULT_INIT;
  tj_call *call;
  char text[] = "words", json[] = "{\"n\":1}", *metadata = (char *)malloc(4000);
  uint64_t id;
  request.model = text;
  CHECK_OK(tj_call_begin(text, &request, &call, &error));
  id = tj_call_id(call);
  tj_call_tokens(call, 3);
  memset(metadata, ' ', 4000);
  memcpy(metadata, "{\"long\":1", 9), metadata[3998] = '}', metadata[3999] = 0;
  result.metadata_json = metadata;
  result.finish_reason = text;
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, &result, &error));
  tj_call_free(call);
  CHECK_OK(tj_bus_publish(text, json, &error));
  memset(text, 'x', sizeof text - 1), memset(json, 'x', sizeof json - 1), memset(metadata, 'x', 3999);

  start = poll(queue), end = poll(queue);
  EXPECT_POLLED(queue, "telemetry_record", 0);
  custom = poll(queue);
  publish("left in the queue");
  tj_bus_queue_free(queue); /* with an event in it */

  CHECK_EQ(start.event->kind, TJ_EVENT_INFERENCE_START), CHECK_EQ(start.event->call_id, id);
  CHECK_STR(start.event->model_id, "words"), CHECK_STR(start.event->engine, "words");
  CHECK(start.event->record == NULL);
  CHECK_EQ(end.event->kind, TJ_EVENT_INFERENCE_END);
  CHECK_EQ(end.event->record->completion_tokens, 3);
  CHECK_STR(end.event->record->model_id, "words"), CHECK_STR(end.event->record->finish_reason, "words");
  CHECK_EQ(strlen(end.event->record->metadata_json), 3999);
  CHECK(strncmp(end.event->record->metadata_json, "{\"long\":1 ", 10) == 0);
  CHECK(end.event->sequence > start.event->sequence && custom.event->sequence > end.event->sequence);
  CHECK_STR(custom.event->name, "words"), CHECK_STR(custom.event->data_json, "{\"n\":1}");
  tj_polled_event_free(&start), tj_polled_event_free(&end), tj_polled_event_free(&custom);
  free(metadata);
}

static void poll_waits_as_long_as_it_is_told(void) {
  tj_bus_queue *queue = open_queue(CUSTOM, 8);
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  double start = check_monotonic();
  CHECK_FAILS(tj_bus_poll(queue, 0, &polled, &error), TJ_ERR_TIMEOUT, NULL);
  CHECK_BETWEEN(check_monotonic() - start, 0, 2.0);
  start = check_monotonic();
  CHECK_FAILS(tj_bus_poll(queue, 60, &polled, &error), TJ_ERR_TIMEOUT, NULL);
  CHECK_BETWEEN(check_monotonic() - start, 0.06, 5.0);
  tj_bus_queue_free(queue);
}

typedef struct waiter {
  tj_bus_queue *queue;
  uint32_t timeout_ms;
  tj_status status;
} waiter;

static void *wait_for_an_event(void *user_data) {
  waiter *self = (waiter *)user_data;
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  self->status = tj_bus_poll(self->queue, self->timeout_ms, &polled, NULL);
  if (self->status == TJ_OK) {
    tj_polled_event_free(&polled);
  }
  return NULL;
}

static void an_event_wakes_a_thread_that_polls(void) {
  waiter it = {NULL, UINT32_MAX, -1}; /* as long as it takes */
  pthread_t thread;
  it.queue = open_queue(CUSTOM, 8);
  CHECK(pthread_create(&thread, NULL, wait_for_an_event, &it) == 0);
  check_sleep_ms(20);
  publish("wake up");
  pthread_join(thread, NULL);
  CHECK_EQ(it.status, TJ_OK);
  tj_bus_queue_free(it.queue);
}

static void close_wakes_the_threads_that_poll(void) {
  waiter waiters[3];
  pthread_t threads[3];
  tj_bus_queue *queue = open_queue(CUSTOM, 8);
  int i;
  for (i = 0; i < 3; i++) {
    waiters[i].queue = queue;
    waiters[i].timeout_ms = i == 0 ? 60000 : UINT32_MAX;
    waiters[i].status = -1;
    CHECK(pthread_create(&threads[i], NULL, wait_for_an_event, &waiters[i]) == 0);
  }
  check_sleep_ms(20);
  CHECK_OK(tj_bus_queue_close(queue, &error));
  for (i = 0; i < 3; i++) {
    pthread_join(threads[i], NULL);
    CHECK_EQ(waiters[i].status, TJ_ERR_CLOSED);
  }
  tj_bus_queue_free(queue);
}

static void a_closed_queue_can_be_emptied(void) {
  tj_bus_queue *queue = open_queue(CUSTOM, 2);
  publish("1"), publish("2"), publish("lost");
  CHECK_OK(tj_bus_queue_close(queue, &error));
  publish("too late");
  EXPECT_POLLED(queue, "1", 0);
  publish("too late as well, though there is room");
  EXPECT_POLLED(queue, "2", 0);
  EXPECT_NONE(queue, TJ_ERR_CLOSED);
  EXPECT_NONE(queue, TJ_ERR_CLOSED);
  tj_bus_queue_free(queue);
}

/* A callback may poll a queue, and open and free one: they are subscriptions like any other. */
static void queues_in_callbacks(const tj_event *event, void *user_data) {
  tj_bus_queue *own;
  if (strcmp(event->name, "outer") == 0) {
    own = open_queue(CUSTOM, 1);
    publish("inner");
    EXPECT_POLLED(own, "inner", 0);
    tj_bus_queue_free(own);
    EXPECT_POLLED(*(tj_bus_queue **)user_data, "outer", 0);
  }
}

static void a_callback_may_use_queues(void) {
  tj_bus_queue *queue = open_queue(CUSTOM, 4);
  uint64_t subscription = subscribe(CUSTOM, queues_in_callbacks, &queue, NULL);
  publish("outer");
  EXPECT_POLLED(queue, "inner", 0);
  EXPECT_NONE(queue, TJ_ERR_TIMEOUT);
  unsubscribe(subscription);
  tj_bus_queue_free(queue);
}

/* ---- Many threads ---- */

enum { PUBLISHERS = 4, POLLERS = 2 };
static int published_in_all, polled_in_all, lost_in_all, last_end_seen;
static tj_bus_queue *shared_queue;

static void *publish_in_order(void *user_data) {
  int n;
  for (n = 1; n <= loops(); n++) {
    char name[32];
    snprintf(name, sizeof name, "%d %d", *(int *)user_data, n);
    publish(name);
    __atomic_fetch_add(&published_in_all, 1, __ATOMIC_SEQ_CST);
  }
  return NULL;
}

static void *poll_until_closed(void *user_data) {
  int last[PUBLISHERS] = {0};
  uint64_t sequences[PUBLISHERS] = {0};
  tj_polled_event polled = TJ_POLLED_EVENT_INIT;
  tj_status status;
  (void)user_data;
  while ((status = tj_bus_poll(shared_queue, UINT32_MAX, &polled, NULL)) == TJ_OK) {
    int thread = 0, n = 0;
    __atomic_fetch_add(&polled_in_all, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&lost_in_all, (int)polled.lost, __ATOMIC_SEQ_CST);
    if (sscanf(polled.event->name, "%d %d", &thread, &n) == 2) {
      CHECK(n > last[thread] && polled.event->sequence > sequences[thread]); /* each thread's events in its order */
      last[thread] = n;
      sequences[thread] = polled.event->sequence;
    } else if (sscanf(polled.event->name, "end %d", &n) == 1) {
      __atomic_store_n(&last_end_seen, n, __ATOMIC_SEQ_CST);
    }
    tj_polled_event_free(&polled);
  }
  CHECK_EQ(status, TJ_ERR_CLOSED);
  return NULL;
}

/* Polled or counted as lost: with many threads at both ends, each event is exactly one of the two. */
static void nothing_is_lost_uncounted(void) {
  pthread_t publishers[PUBLISHERS], pollers[POLLERS];
  int numbers[PUBLISHERS], i, end = 0;
  published_in_all = polled_in_all = lost_in_all = last_end_seen = 0;
  shared_queue = open_queue(CUSTOM, 8);
  for (i = 0; i < PUBLISHERS; i++) {
    numbers[i] = i;
    CHECK(pthread_create(&publishers[i], NULL, publish_in_order, &numbers[i]) == 0);
  }
  for (i = 0; i < POLLERS; i++) {
    CHECK(pthread_create(&pollers[i], NULL, poll_until_closed, NULL) == 0);
  }
  for (i = 0; i < PUBLISHERS; i++) {
    pthread_join(publishers[i], NULL);
  }
  while (end == 0 || __atomic_load_n(&last_end_seen, __ATOMIC_SEQ_CST) != end) { /* one that fits tells of the lost */
    char name[32];
    snprintf(name, sizeof name, "end %d", ++end);
    publish(name);
    check_sleep_ms(20);
  }
  CHECK_OK(tj_bus_queue_close(shared_queue, &error));
  for (i = 0; i < POLLERS; i++) {
    pthread_join(pollers[i], NULL);
  }
  CHECK_EQ(published_in_all, loops() * PUBLISHERS);
  CHECK_EQ(polled_in_all + lost_in_all, published_in_all + end);
  tj_bus_queue_free(shared_queue);
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"a full queue counts what it loses", a_full_queue_counts_what_it_loses},
      {"a queue takes only its kinds, from its opening on", a_queue_takes_only_its_kinds_from_its_opening_on},
      {"a polled event is a copy", a_polled_event_is_a_copy},
      {"poll waits as long as it is told", poll_waits_as_long_as_it_is_told},
      {"an event wakes a thread that polls", an_event_wakes_a_thread_that_polls},
      {"close wakes the threads that poll", close_wakes_the_threads_that_poll},
      {"a closed queue can be emptied", a_closed_queue_can_be_emptied},
      {"a callback may use queues", a_callback_may_use_queues},
      {"nothing is lost uncounted", nothing_is_lost_uncounted},
  };
  return CHECK_MAIN(tests);
}
