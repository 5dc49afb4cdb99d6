/* Starling: `doctor`: what is wrong or will be, and how to mend it. */
#include "tools/cli.h"

#include <stdio.h>

#define SILENCE_S 120 /* it reads whole databases */

static void print_doctor(const struct cli *cli, const json_t *result) {
    const json_t *problems = json_object_get(result, "problems");
    size_t i;
    json_t *each;
    json_array_foreach(json_object_get(result, "checked"), i, each) {
        say(cli, TONE_FAINT, "looked at %s", json_is_string(each) ? json_string_value(each) : "?");
        printf("\n");
    }
    json_array_foreach(problems, i, each) {
        bool note = field_true(each, "note");
        say_problem(cli, note ? TONE_WARN : TONE_BAD, field_text(each, "what", "?"), field_text(each, "mend", NULL));
    }
    if (!json_array_size(problems)) {
        say(cli, TONE_GOOD, "nothing wrong was found");
        printf("\n");
    }
}

int verb_doctor(struct cli *cli) {
    struct answer answer;
    static const char *const WITH_JOIN[] = {"--adopt", "--secret-file", "--cluster", "--config"};
    if (cli_option(cli, "--join"))
        return doctor_join(cli, cli_option(cli, "--join"));
    for (size_t i = 0; i < sizeof WITH_JOIN / sizeof *WITH_JOIN; i++)
        if (cli_option(cli, WITH_JOIN[i])) {
            complain("doctor: %s goes with --join HOST", WITH_JOIN[i]);
            return EXIT_USAGE;
        }
    cli_ask(cli, &(struct request){.verb = "doctor", .silence_s = SILENCE_S}, &answer);
    return cli_answer(cli, &answer, print_doctor);
}
