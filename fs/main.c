/* The program: finds the command, runs it, and prints its error. */
#include "fs/commands/commands.h"
#include "fs/mount/daemon.h"
#include "fs/base/messages.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct command *const commands[] = {
    &command_mount,  &command_umount, &command_convert, &command_plan,
    &command_verify, &command_sample, &command_layouts,
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void print_help(FILE *stream)
{
    fputs("usage: moefs COMMAND [options] ...\n\n"
          "Mounts a Hugging Face mixture-of-experts checkpoint as a read-only directory that holds the same\n"
          "model in another expert layout, or writes such a directory.\n\ncommands:\n",
          stream);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(stream, "  %-8s %s\n", commands[i]->name, commands[i]->purpose);
    fputs("\n`moefs COMMAND --help` explains one of them; `moefs --version` prints the version.\n", stream);
}

/* The command of that name, or NULL with *err set. */
static const struct command *find_command(const char *name, struct error *err)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i]->name) == 0)
            return commands[i];
    error_set(err, "%s: no such command; `moefs --help` lists them", name);
    return NULL;
}

/* `moefs help mount` is `moefs mount --help`. */
static int run_help(int argc, char **argv, struct error *err)
{
    static char option[] = "--help";

    if (argc < 2) {
        print_help(stdout);
        return EXIT_OK;
    }
    const struct command *command = find_command(argv[1], err);
    return command ? command->run(2, (char *[]){argv[1], option, NULL}, err) : EXIT_USAGE;
}

static int run_command(int argc, char **argv, struct error *err)
{
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return run_help(argc - 1, argv + 1, err);
    if (strcmp(argv[1], "--version") == 0) {
        puts("moefs " MOEFS_VERSION);
        return EXIT_OK;
    }
    const struct command *command = find_command(argv[1], err);
    return command ? command->run(argc - 1, argv + 1, err) : EXIT_USAGE;
}

/* What was printed must have arrived: `moefs plan > full-disk` is a failure. */
static int check_output(struct error *err)
{
    const bool failed = ferror(stdout) != 0; /* earlier; the text that failed is written once more now */

    errno = 0;
    if (fflush(stdout) == 0 && !failed)
        return 0;
    return error_set(err, "cannot write standard output: %s",
                     errno ? strerror(errno) : "a part of it is missing");
}

int main(int argc, char **argv)
{
    struct error err = {0};

    daemon_settle_process();
    int status = run_command(argc, argv, &err);
    if (status != EXIT_OK && err.text)
        messages_print_error(&err);
    error_free(&err);
    if (check_output(&err) < 0) {
        messages_print_error(&err);
        status = status == EXIT_OK ? EXIT_REFUSED : status;
    }
    error_free(&err);
    return status;
}
