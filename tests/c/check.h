/*
 * Assertions for the C tests. A failed check says where and what, and the test goes on; the program ends with 1.
 *
 * Every fallible call is made inside CHECK_OK or CHECK_FAILS with &error as its last argument, so that what the header
 * promises of a tj_error is checked at each of them: it is written whole on failure, and not at all on success.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* nanosleep, fork, mmap under -std=c11 */
#endif

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tokenjoule.h"

#ifdef __cplusplus
static thread_local tj_error error;
#else
static _Thread_local tj_error error;
#endif

static int check_failures;
static const char *check_promise = "";

/* One promise and the function that holds the library to it. */
typedef struct check_test {
  const char *promise;
  void (*run)(void);
} check_test;

static inline void check_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static inline void check_fail(const char *file, int line, const char *format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "%s:%d: [%s] %s\n", file, line, check_promise, text);
  __atomic_fetch_add(&check_failures, 1, __ATOMIC_RELAXED);
}

static const char *check_folder; /* where a test may write */
static int check_is_quick;

/*
 * PROGRAM [--quick] FOLDER [FILTER]: runs the tests, or only those whose promise contains the filter; with --quick,
 * for valgrind, loops are short. What hangs is ended by SIGALRM.
 */
static inline int check_main(int argc, char **argv, const check_test *tests, size_t count) {
  size_t i;
  int at = 1;
  if (argc > at && strcmp(argv[at], "--quick") == 0) {
    check_is_quick = 1;
    at++;
  }
  if (argc <= at) {
    fprintf(stderr, "usage: %s [--quick] FOLDER [FILTER]\n", argv[0]);
    return 2;
  }
  check_folder = argv[at];
  alarm(240);
  for (i = 0; i < count; i++) {
    if (argc <= at + 1 || strstr(tests[i].promise, argv[at + 1]) != NULL) {
      check_promise = tests[i].promise;
      tests[i].run();
    }
  }
  return __atomic_load_n(&check_failures, __ATOMIC_RELAXED) == 0 ? 0 : 1;
}

#define CHECK_MAIN(tests) check_main(argc, argv, tests, sizeof(tests) / sizeof *(tests))

/* A file in the folder. Good until the next. */
static inline const char *check_path(const char *name) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/%s", check_folder, name);
  return path;
}

#define CHECK(condition) ((condition) ? (void)0 : check_fail(__FILE__, __LINE__, "%s does not hold", #condition))

#define CHECK_EQ(actual, expected)                                                                                     \
  check_eq((unsigned long long)(actual), (unsigned long long)(expected), #actual, __FILE__, __LINE__)

static inline void check_eq(unsigned long long actual, unsigned long long expected, const char *what, const char *file,
                            int line) {
  if (actual != expected) {
    check_fail(file, line, "%s is %llu, not %llu", what, actual, expected);
  }
}

#define CHECK_STR(actual, expected) check_str(actual, expected, #actual, __FILE__, __LINE__)

static inline void check_str(const char *actual, const char *expected, const char *what, const char *file, int line) {
  if (actual == NULL || strcmp(actual, expected) != 0) {
    check_fail(file, line, "%s is %.200s, not %.200s", what, actual == NULL ? "NULL" : actual, expected);
  }
}

/* Exactly this number; NAN is NAN. */
#define CHECK_NUM(actual, expected) check_num(actual, expected, 0, #actual, __FILE__, __LINE__)
/* Within so much, relatively. */
#define CHECK_NEAR(actual, expected, relative) check_num(actual, expected, relative, #actual, __FILE__, __LINE__)

static inline void check_num(double actual, double expected, double relative, const char *what, const char *file,
                             int line) {
  int holds = isnan(expected) ? isnan(actual) : fabs(actual - expected) <= relative * fabs(expected);
  if (!holds) {
    check_fail(file, line, "%s is %.17g, not %.17g", what, actual, expected);
  }
}

#define CHECK_BETWEEN(actual, least, most)                                                                             \
  check_between(actual, least, most, #actual, __FILE__, __LINE__)

static inline void check_between(double actual, double least, double most, const char *what, const char *file,
                                 int line) {
  if (!(actual >= least && actual <= most)) {
    check_fail(file, line, "%s is %.9g, not in %.9g to %.9g", what, actual, least, most);
  }
}

/* ---- Calls and their errors ---- */

enum { CHECK_POISON = 0xA5 };

static inline void check_poison_error(void) { memset(&error, CHECK_POISON, sizeof error); }

static inline int check_is_poison(const void *memory, size_t size) {
  const unsigned char *bytes = (const unsigned char *)memory;
  size_t i;
  for (i = 0; i < size; i++) {
    if (bytes[i] != CHECK_POISON) {
      return 0;
    }
  }
  return 1;
}

/* The length of a NUL-terminated message that is valid UTF-8; -1 for any other. */
static inline int check_utf8(const char *text, size_t size) {
  size_t i = 0;
  while (i < size && text[i] != 0) {
    unsigned char lead = (unsigned char)text[i];
    int more = lead < 0x80 ? 0 : lead >= 0xC2 && lead < 0xE0 ? 1 : lead >= 0xE0 && lead < 0xF0 ? 2 : 3;
    if (lead >= 0x80 && (lead < 0xC2 || lead > 0xF4)) {
      return -1;
    }
    for (i++; more > 0; more--, i++) {
      if (i == size || ((unsigned char)text[i] & 0xC0) != 0x80) {
        return -1;
      }
    }
  }
  return i < size ? (int)i : -1;
}

static inline int check_is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* Whether a message names something: as a whole word, so that "engine" is not found in "engine_id". */
static inline int check_names(const char *message, const char *name) {
  const char *at = message;
  size_t length = strlen(name);
  while ((at = strstr(at, name)) != NULL) {
    char before = at == message ? ' ' : at[-1], after = at[length];
    if (!check_is_word(before) && !check_is_word(after)) {
      return 1;
    }
    at++;
  }
  return 0;
}

/* TJ_OK, and the tj_error is as it was. */
#define CHECK_OK(call) (check_poison_error(), check_ok((call), #call, __FILE__, __LINE__))

static inline tj_status check_ok(tj_status status, const char *call, const char *file, int line) {
  if (status != TJ_OK) {
    check_fail(file, line, "%s gave %s: %.503s", call, tj_status_name(status), error.message);
  } else if (!check_is_poison(&error, sizeof error)) {
    check_fail(file, line, "%s succeeded and wrote to the tj_error", call);
  }
  return status;
}

/* That status, and a tj_error with that status, no engine code, and a message that names what was wrong. */
#define CHECK_FAILS(call, status, name)                                                                                \
  (check_poison_error(), check_fails((call), status, 0, name, #call, __FILE__, __LINE__))
#define CHECK_ENGINE_FAILS(call, code, name)                                                                           \
  (check_poison_error(), check_fails((call), TJ_ERR_ENGINE, code, name, #call, __FILE__, __LINE__))

static inline tj_status check_fails(tj_status status, tj_status expected, int32_t engine_code, const char *name,
                                    const char *call, const char *file, int line) {
  if (status != expected) {
    check_fail(file, line, "%s gave %s, not %s: %.503s", call, tj_status_name(status), tj_status_name(expected),
               status == TJ_OK ? "" : error.message);
  } else if (error.status != expected || error.engine_code != engine_code) {
    check_fail(file, line, "%s wrote status %d and engine code %d", call, (int)error.status, (int)error.engine_code);
  } else if (check_utf8(error.message, sizeof error.message) <= 0) {
    check_fail(file, line, "%s gave a message that is empty, no UTF-8 or not terminated", call);
  } else if (name != NULL && !check_names(error.message, name)) {
    check_fail(file, line, "%s does not name %s: %.503s", call, name, error.message);
  }
  return status;
}

/* ---- What many tests need ---- */

/* for (EACH(pointer, array)) */
#define EACH(item, list) item = list; item < list + sizeof(list) / sizeof *(list); item++

static inline tj_store *check_open(const char *path) {
  tj_store *store = NULL;
  CHECK_OK(tj_store_open(path, NULL, &store, &error));
  return store;
}

static inline uint64_t check_count(tj_store *store) {
  uint64_t count = 0;
  CHECK_OK(tj_store_count(store, &count, &error));
  return count;
}

static inline tj_health check_health(tj_store *store) {
  tj_health health = TJ_HEALTH_INIT;
  CHECK_OK(tj_store_health(store, &health, &error));
  return health;
}

static inline void check_sleep_ms(long milliseconds) {
  struct timespec left;
  left.tv_sec = milliseconds / 1000;
  left.tv_nsec = milliseconds % 1000 * 1000000;
  while (nanosleep(&left, &left) != 0) {
  }
}

static inline double check_monotonic(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline double check_wall_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

#endif
