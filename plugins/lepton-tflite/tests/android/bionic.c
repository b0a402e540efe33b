/* Android's C library for one purpose: libtensorflowlite_jni.so of tensorflow-lite 2.16.1 for x86_64
 * on a Linux with glibc. Almost every function is glibc's own, of the same calling convention and
 * layout of data on x86_64; the rest differs in names, numbers or the place of stdout and stderr.
 * No function of the interpreter is here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SAME(X) \
    X(__cxa_atexit) X(__cxa_finalize) X(__memmove_chk) X(__open_2) X(__read_chk) X(__stack_chk_fail) \
    X(__vsnprintf_chk) X(abort) X(atan2) X(atan2f) X(bsearch) X(calloc) X(clock_gettime) X(close) \
    X(closelog) X(cos) X(cosf) X(dl_iterate_phdr) X(dlclose) X(dlerror) X(dlopen) X(dlsym) X(erfcf) \
    X(exit) X(exp) X(expf) X(expm1f) X(fclose) X(flock) X(fmodf) X(fopen) X(fread) X(free) \
    X(freelocale) X(frexp) X(fstat) X(fsync) X(getenv) X(getpagesize) X(getuid) X(hypot) X(hypotf) \
    X(ldexp) X(log) X(log1p) X(logf) X(madvise) X(malloc) X(memalign) X(memchr) X(memcmp) X(memcpy) \
    X(memmove) X(memset) X(mmap) X(mprotect) X(mremap) X(munmap) X(nanf) X(nanosleep) X(newlocale) \
    X(open) X(openlog) X(posix_memalign) X(pow) X(powf) X(pthread_cond_broadcast) \
    X(pthread_cond_destroy) X(pthread_cond_init) X(pthread_cond_signal) X(pthread_cond_wait) \
    X(pthread_create) X(pthread_equal) X(pthread_getspecific) X(pthread_join) X(pthread_key_create) \
    X(pthread_key_delete) X(pthread_mutex_destroy) X(pthread_mutex_init) X(pthread_mutex_lock) \
    X(pthread_mutex_unlock) X(pthread_once) X(pthread_rwlock_rdlock) X(pthread_rwlock_unlock) \
    X(pthread_rwlock_wrlock) X(pthread_self) X(pthread_setspecific) X(qsort) X(read) X(realloc) \
    X(rename) X(sincos) X(sincosf) X(sinf) X(snprintf) X(strcmp) X(strerror) X(strlen) X(strncmp) \
    X(strncpy) X(strtod) X(strtol) X(strtoll_l) X(strtoull_l) X(syscall) X(syslog) X(tanhf) X(time) \
    X(vasprintf) X(vsnprintf) X(write)

typedef void *(*lookup)(void *, const char *);
static lookup find;
static void *real(const char *name) { return find(RTLD_NEXT, name); }

#define JUMP(name) \
    void *to_##name; \
    __asm__(".globl " #name "\n.type " #name ",@function\n" #name ": jmp *to_" #name "(%rip)\n");
SAME(JUMP)

__attribute__((constructor)) static void bind(void) {
    find = (lookup)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
    if (!find) find = (lookup)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
#define BIND(name) to_##name = real(#name);
    SAME(BIND)
}

int *__errno(void) { return __errno_location(); }
size_t __strlen_chk(const char *text, size_t limit) { (void)limit; return strlen(text); }
int __system_property_get(const char *name, char *value) { (void)name; *value = 0; return 0; }
void android_set_abort_message(const char *text) { fprintf(stderr, "%s\n", text); }

/* stdin, stdout and stderr are places in an array there. */
char __sF[3][152];
static FILE *file(void *given) {
    return given == __sF[2] ? stderr : given == __sF[1] ? stdout : given == __sF[0] ? stdin : given;
}

#define AS(type, name, own, ...) \
    type own(__VA_ARGS__) __asm__(name); \
    type own(__VA_ARGS__)
AS(int, "vfprintf", own_vfprintf, void *f, const char *form, va_list values) {
    return ((int (*)(FILE *, const char *, va_list))real("vfprintf"))(file(f), form, values);
}
AS(int, "fprintf", own_fprintf, void *f, const char *form, ...) {
    va_list values;
    va_start(values, form);
    int count = own_vfprintf(f, form, values);
    va_end(values);
    return count;
}
AS(int, "fputc", own_fputc, int c, void *f) {
    return ((int (*)(int, FILE *))real("fputc"))(c, file(f));
}
AS(int, "fflush", own_fflush, void *f) { return ((int (*)(FILE *))real("fflush"))(file(f)); }
AS(int, "fileno", own_fileno, void *f) { return ((int (*)(FILE *))real("fileno"))(file(f)); }
AS(size_t, "fwrite", own_fwrite, const void *from, size_t size, size_t count, void *f) {
    return ((size_t(*)(const void *, size_t, size_t, FILE *))real("fwrite"))(from, size, count, file(f));
}
int __android_log_vprint(int level, const char *tag, const char *form, va_list values) {
    (void)level;
    fprintf(stderr, "%s: ", tag);
    int count = own_vfprintf(stderr, form, values);
    fprintf(stderr, "\n");
    return count;
}

/* Android's is POSIX's; the numbers of sysconf are its own. */
AS(int, "strerror_r", own_strerror_r, int error, char *text, size_t size) {
    return ((int (*)(int, char *, size_t))real("__xpg_strerror_r"))(error, text, size);
}
AS(long, "sysconf", own_sysconf, int key) {
    int own = key == 96 ? _SC_NPROCESSORS_CONF : key == 97 ? _SC_NPROCESSORS_ONLN
            : key == 39 || key == 40 ? _SC_PAGESIZE : -1;
    if (own < 0) fprintf(stderr, "sysconf(%d) is not known here\n", key);
    return ((long (*)(int))real("sysconf"))(own);
}
