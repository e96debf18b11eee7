/*
 * The event bus: order, re-entrancy, the end of a subscription, many threads.
 */
#include "custom.h"

#include <pthread.h>

/* Of each thread in the tests with many. */
static int loops(void) { return check_is_quick ? 25 : 400; }

static void ignore_event(const tj_event *event, void *user_data) { (void)event, (void)user_data; }

/* ---- A subscriber that keeps a log ---- */

static char seen[256]; /* what all logging subscribers wrote, in order */

static void forget_what_was_seen(void) { memset(seen, 0, sizeof seen); }

typedef struct logger {
  char letter;
  int drops;
  int running; /* calls under way */
  void (*act)(struct logger *self, const tj_event *event); /* may be NULL */
  uint64_t subscription, other;
} logger;

static void write_log(const tj_event *event, void *user_data) {
  logger *self = (logger *)user_data;
  self->running++;
  seen[strlen(seen)] = self->letter;
  CHECK_EQ(self->drops, 0);
  if (self->act != NULL) {
    self->act(self, event);
  }
  CHECK_EQ(self->drops, 0); /* not while the callback runs */
  self->running--;
}

static void count_drop(void *user_data) {
  logger *self = (logger *)user_data;
  CHECK_EQ(self->running, 0);
  self->drops++;
}

static void start(logger *self, char letter, void (*act)(logger *self, const tj_event *event)) {
  memset(self, 0, sizeof *self);
  self->letter = letter;
  self->act = act;
  self->subscription = subscribe(CUSTOM, write_log, self, count_drop);
}

static void stop(logger *self) {
  unsubscribe(self->subscription);
  CHECK_EQ(self->drops, 1);
}

/* ---- Order and threads ---- */

static void subscribers_are_called_in_the_order_they_subscribed(void) {
  logger a, b, c;
  forget_what_was_seen();
  start(&a, 'a', NULL), start(&b, 'b', NULL), start(&c, 'c', NULL);
  publish("x"), publish("x");
  stop(&b);
  publish("x");
  start(&b, 'b', NULL); /* is the last one now */
  publish("x");
  CHECK_STR(seen, "abcabcacacb");
  stop(&a), stop(&b), stop(&c);
  publish("x");
  CHECK_STR(seen, "abcabcacacb");
}

static pthread_t callback_thread;
static void keep_thread(const tj_event *event, void *user_data) {
  (void)event, (void)user_data;
  callback_thread = pthread_self();
}

static void *publish_one(void *self) {
  publish("x");
  *(pthread_t *)self = pthread_self();
  return NULL;
}

static void callbacks_run_on_the_publishing_thread(void) {
  uint64_t subscription = subscribe(CUSTOM, keep_thread, NULL, NULL);
  pthread_t thread, publisher;
  publish("x");
  CHECK(pthread_equal(callback_thread, pthread_self()));
  CHECK(pthread_create(&thread, NULL, publish_one, &publisher) == 0);
  pthread_join(thread, NULL);
  CHECK(pthread_equal(callback_thread, publisher));
  unsubscribe(subscription);
}

/* ---- A callback may publish, subscribe and unsubscribe ---- */

static void publish_inner(logger *self, const tj_event *event) {
  (void)self;
  if (strcmp(event->name, "outer") == 0) {
    seen[strlen(seen)] = '(';
    publish("inner");
    seen[strlen(seen)] = ')';
  }
  CHECK(strcmp(event->name, "outer") == 0 || strcmp(event->name, "inner") == 0); /* still readable */
}

static void a_callback_may_publish(void) {
  logger a, b;
  forget_what_was_seen();
  start(&a, 'a', publish_inner), start(&b, 'b', NULL);
  publish("outer");
  CHECK_STR(seen, "a(ab)b");
  stop(&a), stop(&b);
}

static logger added;

static void subscribe_another(logger *self, const tj_event *event) {
  (void)event;
  if (self->other == 0) {
    start(&added, 'n', NULL);
    self->other = added.subscription;
  }
}

static void a_callback_may_subscribe(void) {
  logger a;
  forget_what_was_seen();
  start(&a, 'a', subscribe_another);
  publish("x"); /* "called for events published from now on": not for this one */
  CHECK_STR(seen, "a");
  publish("x");
  CHECK_STR(seen, "aan");
  stop(&a), stop(&added);
}

static void unsubscribe_oneself(logger *self, const tj_event *event) {
  (void)event;
  unsubscribe(self->subscription);
  CHECK_EQ(self->drops, 0); /* "from inside the callback itself: after it returns" */
  CHECK_EQ(tj_bus_unsubscribe(self->subscription, NULL), TJ_ERR_NOT_FOUND);
}

static void a_callback_may_unsubscribe_itself(void) {
  logger a, b;
  forget_what_was_seen();
  start(&a, 'a', unsubscribe_oneself), start(&b, 'b', NULL);
  publish("x");
  CHECK_EQ(a.drops, 1);
  publish("x");
  CHECK_STR(seen, "abb");
  stop(&b);
}

static void unsubscribe_oneself_in_depth(logger *self, const tj_event *event) {
  (void)event;
  if (self->running < 3) {
    publish("deeper");
  } else {
    unsubscribe(self->subscription);
  }
  CHECK_EQ(self->drops, 0); /* the outer calls have not ended yet */
}

static void drop_waits_for_the_outermost_call(void) {
  logger a;
  forget_what_was_seen();
  start(&a, 'a', unsubscribe_oneself_in_depth);
  publish("x");
  CHECK_EQ(a.drops, 1);
  CHECK_STR(seen, "aaa");
  publish("x");
  CHECK_STR(seen, "aaa");
}

static void unsubscribe_the_other(logger *self, const tj_event *event) {
  (void)event;
  if (self->other != 0) {
    unsubscribe(self->other);
    self->other = 0;
  }
}

/* "When tj_bus_unsubscribe returns, the callback will not run again": not for the event under way either. */
static void a_callback_may_unsubscribe_another(void) {
  logger a, b, c;
  forget_what_was_seen();
  start(&a, 'a', NULL), start(&b, 'b', unsubscribe_the_other), start(&c, 'c', NULL);
  b.other = c.subscription;
  publish("x");
  CHECK_STR(seen, "ab");
  CHECK_EQ(c.drops, 1);
  b.other = a.subscription;
  publish("x");
  CHECK_STR(seen, "abab");
  CHECK_EQ(a.drops, 1);
  publish("x");
  CHECK_STR(seen, "ababb");
  stop(&b);
}

/* No lock is held while drop runs, so it may use the bus as well. */
static void drop_and_use_the_bus(void *user_data) {
  uint64_t subscription;
  publish("from drop");
  subscription = subscribe(CUSTOM, ignore_event, NULL, NULL);
  unsubscribe(subscription);
  CHECK_EQ(tj_bus_unsubscribe(*(uint64_t *)user_data, NULL), TJ_ERR_NOT_FOUND);
  *(uint64_t *)user_data = 0;
}

static void drop_may_use_the_bus(void) {
  uint64_t subscription = 1, other;
  logger a;
  forget_what_was_seen();
  start(&a, 'a', NULL);
  subscription = subscribe(TJ_EVENT_MASK(TJ_EVENT_BATCH_START), ignore_event, &subscription, drop_and_use_the_bus);
  unsubscribe(subscription);
  CHECK_EQ(subscription, 0);
  CHECK_STR(seen, "a");
  subscription = 1;
  CHECK_EQ(tj_bus_subscribe(0, ignore_event, &subscription, drop_and_use_the_bus, &other, NULL),
           TJ_ERR_INVALID_ARGUMENT);
  CHECK_EQ(subscription, 0);
  CHECK_STR(seen, "aa");
  stop(&a);
}

/* ---- drop ---- */

static void drop_runs_once_also_when_subscribing_fails(void) {
  logger it;
  uint64_t subscription;
  memset(&it, 0, sizeof it);
  CHECK_FAILS(tj_bus_subscribe(0, write_log, &it, count_drop, &subscription, &error), TJ_ERR_INVALID_ARGUMENT,
              "event_mask");
  CHECK_EQ(it.drops, 1);
  CHECK_FAILS(tj_bus_subscribe(CUSTOM, NULL, &it, count_drop, &subscription, &error), TJ_ERR_INVALID_ARGUMENT, "fn");
  CHECK_EQ(it.drops, 2);
  CHECK_FAILS(tj_bus_subscribe(CUSTOM, write_log, &it, count_drop, NULL, &error), TJ_ERR_INVALID_ARGUMENT,
              "out_subscription");
  CHECK_EQ(it.drops, 3);
  CHECK_EQ(tj_bus_subscribe(0, NULL, &it, count_drop, NULL, NULL), TJ_ERR_INVALID_ARGUMENT);
  CHECK_EQ(it.drops, 4);
  publish("nobody");

  start(&it, 'a', NULL);
  publish("x"), publish("y");
  CHECK_EQ(it.drops, 0);
  unsubscribe(it.subscription);
  CHECK_EQ(it.drops, 1); /* "... and its drop has run" */
  CHECK_FAILS(tj_bus_unsubscribe(it.subscription, &error), TJ_ERR_NOT_FOUND, NULL);
  publish("z");
  CHECK_EQ(it.drops, 1);
}

typedef struct slow {
  int entered, left, dropped;
} slow;

static void take_50_ms(const tj_event *event, void *user_data) {
  slow *self = (slow *)user_data;
  (void)event;
  __atomic_store_n(&self->entered, 1, __ATOMIC_SEQ_CST);
  check_sleep_ms(50);
  __atomic_store_n(&self->left, 1, __ATOMIC_SEQ_CST);
}

static void mark_dropped(void *user_data) {
  slow *self = (slow *)user_data;
  CHECK(__atomic_load_n(&self->left, __ATOMIC_SEQ_CST));
  __atomic_store_n(&self->dropped, 1, __ATOMIC_SEQ_CST);
}

static void unsubscribe_waits_for_a_callback_on_another_thread(void) {
  slow it = {0, 0, 0};
  pthread_t thread, publisher;
  uint64_t subscription = subscribe(CUSTOM, take_50_ms, &it, mark_dropped);
  CHECK(pthread_create(&thread, NULL, publish_one, &publisher) == 0);
  while (!__atomic_load_n(&it.entered, __ATOMIC_SEQ_CST)) {
    check_sleep_ms(1);
  }
  CHECK(!it.left);
  unsubscribe(subscription);
  CHECK(__atomic_load_n(&it.left, __ATOMIC_SEQ_CST));
  CHECK(__atomic_load_n(&it.dropped, __ATOMIC_SEQ_CST));
  pthread_join(thread, NULL);
}

/* A callback may use stores and calls, too: nothing of the library's is locked while it runs. */
static void begin_and_end_a_call(const tj_event *event, void *user_data) {
  tj_store *store = *(tj_store **)user_data;
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call;
  if (strcmp(event->model_id, "outer") != 0) {
    return;
  }
  record.model_id = "by hand";
  CHECK_OK(tj_record(store, &record, &error));
  CHECK_OK(tj_aggregate(store, NULL, &stats, &error));
  tj_aggregated_stats_free(&stats);
  request.model = "inner";
  CHECK_OK(tj_call_begin("e", &request, &call, &error));
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
}

static void a_callback_may_record_and_call(void) {
  tj_store *store = check_open(":memory:");
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call;
  uint64_t subscription = subscribe(TJ_EVENT_MASK_ALL, begin_and_end_a_call, &store, NULL);
  CHECK_OK(tj_store_subscribe(store, &error));
  request.model = "outer";
  CHECK_OK(tj_call_begin("e", &request, &call, &error));
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
  CHECK_EQ(check_count(store), 7); /* for each of 3 events one by hand and one inner call; and the outer call */
  unsubscribe(subscription);
  CHECK_OK(tj_store_close(store, &error));
}

/* ---- Many threads ---- */

enum { MAGIC = 0x600DF00D, DEAD = 0x0DEADBEE, CHANGERS = 4 };

typedef struct guest {
  unsigned magic;
  int running;
  int *dropped; /* outlives the guest */
} guest;

static int is_over, guests_heard, guests_dropped, guests_made;

static void hear(const tj_event *event, void *user_data) {
  guest *self = (guest *)user_data;
  CHECK_EQ(__atomic_load_n(&self->magic, __ATOMIC_SEQ_CST), MAGIC);
  __atomic_fetch_add(&self->running, 1, __ATOMIC_SEQ_CST);
  CHECK(event->sequence > 0 && event->name[0] != 0);
  __atomic_fetch_add(&guests_heard, 1, __ATOMIC_RELAXED);
  __atomic_fetch_sub(&self->running, 1, __ATOMIC_SEQ_CST);
  CHECK_EQ(__atomic_load_n(&self->magic, __ATOMIC_SEQ_CST), MAGIC);
}

static void release(void *user_data) {
  guest *self = (guest *)user_data;
  CHECK_EQ(self->running, 0);
  CHECK_EQ(__atomic_exchange_n(&self->magic, DEAD, __ATOMIC_SEQ_CST), MAGIC); /* once */
  __atomic_store_n(self->dropped, 1, __ATOMIC_SEQ_CST);
  __atomic_fetch_add(&guests_dropped, 1, __ATOMIC_SEQ_CST);
  free(self);
}

static void *come_and_go(void *user_data) {
  int n;
  (void)user_data;
  for (n = 0; n < loops(); n++) {
    int dropped = 0;
    uint64_t subscription;
    guest *self = (guest *)malloc(sizeof *self);
    self->magic = MAGIC, self->running = 0, self->dropped = &dropped;
    __atomic_fetch_add(&guests_made, 1, __ATOMIC_SEQ_CST);
    subscription = subscribe(CUSTOM, hear, self, release);
    if (n % 3 == 0) {
      publish("from a changer");
    } else if (n % 7 == 0) {
      check_sleep_ms(1);
    }
    unsubscribe(subscription);
    CHECK(__atomic_load_n(&dropped, __ATOMIC_SEQ_CST));
  }
  return NULL;
}

static void *publish_until_it_is_over(void *user_data) {
  (void)user_data;
  while (!__atomic_load_n(&is_over, __ATOMIC_SEQ_CST)) {
    publish("from a publisher");
  }
  return NULL;
}

static void no_callback_runs_after_its_drop(void) {
  pthread_t publishers[8], changers[CHANGERS];
  int i;
  is_over = guests_heard = guests_dropped = guests_made = 0;
  for (i = 0; i < 8; i++) {
    CHECK(pthread_create(&publishers[i], NULL, publish_until_it_is_over, NULL) == 0);
  }
  for (i = 0; i < CHANGERS; i++) {
    CHECK(pthread_create(&changers[i], NULL, come_and_go, NULL) == 0);
  }
  for (i = 0; i < CHANGERS; i++) {
    pthread_join(changers[i], NULL);
  }
  __atomic_store_n(&is_over, 1, __ATOMIC_SEQ_CST);
  for (i = 0; i < 8; i++) {
    pthread_join(publishers[i], NULL);
  }
  CHECK_EQ(guests_made, loops() * CHANGERS);
  CHECK_EQ(guests_dropped, guests_made);
  CHECK(guests_heard >= guests_made / 3); /* at least what the changers published themselves */
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"subscribers are called in the order they subscribed", subscribers_are_called_in_the_order_they_subscribed},
      {"callbacks run on the publishing thread", callbacks_run_on_the_publishing_thread},
      {"a callback may publish", a_callback_may_publish},
      {"a callback may subscribe", a_callback_may_subscribe},
      {"a callback may unsubscribe itself", a_callback_may_unsubscribe_itself},
      {"drop waits for the outermost call", drop_waits_for_the_outermost_call},
      {"a callback may unsubscribe another", a_callback_may_unsubscribe_another},
      {"drop may use the bus", drop_may_use_the_bus},
      {"drop runs once, also when subscribing fails", drop_runs_once_also_when_subscribing_fails},
      {"unsubscribe waits for a callback on another thread", unsubscribe_waits_for_a_callback_on_another_thread},
      {"a callback may record and call", a_callback_may_record_and_call},
      {"no callback runs after its drop", no_callback_runs_after_its_drop},
  };
  return CHECK_MAIN(tests);
}
