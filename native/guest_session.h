/* The command of a view in a guest; see guest_session.c. */
#pragma once

/* Carry out the step "session". Returns 0 once the host has taken the result, or -1 with errno set.
 */
int session(char **words);
