/*
 * Two processes open a new database at the same time, and the first of them fails: what the second has recorded is
 * there all the same. "In all these cases the file is as it was."
 *
 *   second PATH RECORDER     RECORDER: tests/c/recorder.c, the second process
 *
 * This program's own open() stands before the C library's. Behind the first one that makes the database's file it runs
 * the second process to its end; after that no file can be opened any more (EMFILE), so that the library fails.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>

static const char *database, *recorder;
static int has_run_the_second, is_out_of_files;

/* Not by fork: this is inside the library, and it may guard its inside against forks. */
static void run_the_second_process(void) {
  char words[4][16] = {"recorder", "second", "1", "10"};
  char *arguments[] = {words[0], NULL, words[1], words[2], words[3], NULL};
  char path[4096];
  int status = -1;
  pid_t second;
  snprintf(path, sizeof path, "%s", database);
  arguments[1] = path;
  CHECK(posix_spawn(&second, recorder, NULL, NULL, arguments, environ) == 0);
  CHECK(waitpid(second, &status, 0) == second && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int open_in_its_place(const char *path, int flags, mode_t mode) {
  int is_new, file;
  if (is_out_of_files) {
    errno = EMFILE;
    return -1;
  }
  is_new = database != NULL && strcmp(path, database) == 0 && access(path, F_OK) != 0;
  file = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
  if (file >= 0 && is_new && !has_run_the_second) {
    has_run_the_second = 1;
    run_the_second_process();
    is_out_of_files = 1;
  }
  return file;
}

#define OPEN(name)                                                                                                     \
  int name(const char *path, int flags, ...);                                                                          \
  int name(const char *path, int flags, ...) {                                                                         \
    mode_t mode = 0;                                                                                                   \
    if ((flags & O_CREAT) != 0) {                                                                                      \
      va_list arguments;                                                                                               \
      va_start(arguments, flags);                                                                                      \
      mode = va_arg(arguments, mode_t);                                                                                \
      va_end(arguments);                                                                                               \
    }                                                                                                                  \
    return open_in_its_place(path, flags, mode);                                                                       \
  }
OPEN(open)
OPEN(open64)

int main(int argc, char **argv) {
  tj_store *store = NULL;
  if (argc != 3) {
    fprintf(stderr, "usage: second PATH RECORDER\n");
    return 2;
  }
  check_promise = "a failed open takes nothing of another process's away";
  database = argv[1];
  recorder = argv[2];
  CHECK(access(database, F_OK) != 0);
  CHECK(tj_store_open(database, NULL, &store, &error) != TJ_OK);
  CHECK(store == NULL);
  CHECK(has_run_the_second);
  is_out_of_files = 0;
  store = check_open(database);
  CHECK_EQ(check_count(store), 10);
  CHECK_OK(tj_store_close(store, &error));
  return check_failures == 0 ? 0 : 1;
}
