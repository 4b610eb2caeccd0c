/* SPDX-License-Identifier: Apache-2.0 */
/* The least a program can do: how long starting it takes is subtracted from how long starting a
   server takes. */
int main(void)
{
    return 0;
}
