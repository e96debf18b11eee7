/*
 * What the tests of the bus share: the program's own events, and subscriptions that must succeed.
 */
#ifndef CUSTOM_H
#define CUSTOM_H

#include "check.h"

#define CUSTOM TJ_EVENT_MASK(TJ_EVENT_CUSTOM)

static inline void publish(const char *name) { CHECK_OK(tj_bus_publish(name, NULL, &error)); }

static inline uint64_t subscribe(uint64_t mask, tj_event_fn fn, void *user_data, tj_drop_fn drop) {
  uint64_t subscription = 0;
  CHECK_OK(tj_bus_subscribe(mask, fn, user_data, drop, &subscription, &error));
  CHECK(subscription != 0);
  return subscription;
}

static inline void unsubscribe(uint64_t subscription) { CHECK_OK(tj_bus_unsubscribe(subscription, &error)); }

#endif
