// SPDX-License-Identifier: Apache-2.0
// Runs aimock with the fixtures in the first argument on a port of the kernel's choice, prints the port, and ends
// with stdin.
let LLMock;
try {
    ({ LLMock } = await import('@copilotkit/aimock'));
} catch (error) {
    console.log(error.message);
    process.exit(0);
}
const mock = new LLMock({ port: 0, host: '127.0.0.1', logLevel: 'silent' });
mock.addFixturesFromJSON(JSON.parse(process.argv[2]).fixtures);
await mock.start();
console.log(new URL(mock.url).port);
process.stdin.resume().on('end', () => process.exit(0));
