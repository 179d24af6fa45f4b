/* LD_PRELOAD: what becomes of a daemon at its first step, setsid(). SETSID_SHIM=die: a signal kills it; end: it exits
 * with status 3; orphan: its parent, who waits for it, is killed. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) pid_t setsid(void)
{
    const char *what = getenv("SETSID_SHIM");

    if (what && strcmp(what, "die") == 0)
        raise(SIGKILL);
    if (what && strcmp(what, "end") == 0)
        _exit(3);
    if (what && strcmp(what, "orphan") == 0) {
        const pid_t parent = getppid();
        kill(parent, SIGKILL);
        while (getppid() == parent) /* until it is dead and its descriptors are closed */
            usleep(1000);
    }
    return (pid_t)syscall(SYS_setsid);
}
