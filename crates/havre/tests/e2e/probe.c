/* What the end-to-end tests ask the kernel from inside a container. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "users") == 0) {
        printf("%d %d\n", (int)getuid(), (int)geteuid());
        return 0;
    }
    /* call NUMBER [ARGUMENT...]: prints the error number, 0 for success. */
    if (argc > 2 && strcmp(argv[1], "call") == 0) {
        long a[6] = {0, 0, 0, 0, 0, 0};
        for (int i = 3; i < argc && i < 9; i++) a[i - 3] = strtol(argv[i], 0, 0);
        long r = syscall(strtol(argv[2], 0, 0), a[0], a[1], a[2], a[3], a[4], a[5]);
        printf("%d\n", r < 0 ? errno : 0);
        return 0;
    }
    /* calls: numbers on standard input, "NUMBER ERROR" on standard output. */
    if (argc == 2 && strcmp(argv[1], "calls") == 0) {
        long number;
        while (scanf("%ld", &number) == 1) {
            errno = 0;
            long r = syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
            printf("%ld %d\n", number, r < 0 ? errno : 0);
            fflush(stdout);
        }
        return 0;
    }
    return 2;
}
