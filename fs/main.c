#include "fs/commands/commands.h"
#include "fs/mount/daemon.h"
#include "fs/base/messages.h"

#include <stdio.h>
#include <string.h>

static const struct command *const commands[] = {
    &command_mount, &command_umount, &command_plan, &command_verify, &command_sample, &command_layouts,
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void print_help(FILE *stream)
{
    fputs("usage: moefs COMMAND [options] ...\n\n"
          "Mounts a Hugging Face mixture-of-experts checkpoint as a read-only directory that holds the same\n"
          "model in another expert layout. Nothing is converted on disk.\n\ncommands:\n",
          stream);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(stream, "  %-8s %s\n", commands[i]->name, commands[i]->purpose);
    fputs("\n`moefs COMMAND --help` explains one of them; `moefs --version` prints the version.\n", stream);
}

static int run_command(int argc, char **argv, struct error *err)
{
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("moefs " MOEFS_VERSION);
        return EXIT_OK;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i]->name) == 0)
            return commands[i]->run(argc - 1, argv + 1, err);
    }
    error_set(err, "%s: no such command; `moefs --help` lists them", argv[1]);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct error err = {0};

    daemon_settle_process();
    int status = run_command(argc, argv, &err);
    /* what was printed must have arrived: `moefs plan > full-disk` is a failure */
    if (fflush(stdout) != 0 && status == EXIT_OK)
        status = EXIT_REFUSED;
    if (ferror(stdout) && status == EXIT_OK)
        status = EXIT_REFUSED;
    if (status != EXIT_OK && err.text)
        messages_print_error(&err);
    error_free(&err);
    return status;
}
