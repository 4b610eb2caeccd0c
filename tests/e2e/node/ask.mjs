// SPDX-License-Identifier: Apache-2.0
// The official Node.js SDK as a judge: does what the first argument says and prints what it got, as one JSON object.
//
//   node ask.mjs BASE_URL whole|stream|models|model|leave [PARAMETERS] [OPTIONS]
//
// PARAMETERS are the members of the request, OPTIONS those of the client (maxRetries …), both as JSON.
import OpenAI from 'openai';

const [baseURL, what, parameters = '{}', options = '{}'] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'sk-of-the-caller', ...JSON.parse(options) });
const question = { model: 'm', messages: [{ role: 'user', content: 'hi' }], ...JSON.parse(parameters) };

// The pieces of a tool call's arguments come one by one and belong together by their index.
function addToolCalls(calls, delta) {
    for (const piece of delta.tool_calls ?? []) {
        const call = (calls[piece.index] ??= { id: piece.id, name: piece.function.name, arguments: '' });
        call.arguments += piece.function.arguments ?? '';
    }
}

async function stream(result) {
    Object.assign(result, { text: '', chunks: 0, tools: [], finish: null });
    for await (const chunk of await client.chat.completions.create({ ...question, stream: true })) {
        result.chunks += 1;
        for (const choice of chunk.choices) {
            result.text += choice.delta.content ?? '';
            result.finish = choice.finish_reason ?? result.finish;
            addToolCalls(result.tools, choice.delta);
        }
        if (chunk.usage) result.usage = chunk.usage;
        if (what === 'leave') break;
    }
}

const actions = {
    stream,
    leave: stream,
    async whole(result) {
        const { data, response } = await client.chat.completions.create(question).withResponse();
        Object.assign(result, { answer: data, requestId: data._request_id, model: response.headers.get('x-sluice-model') });
    },
    async models(result) {
        result.ids = [];
        for await (const model of client.models.list()) result.ids.push(model.id);
    },
    async model(result) {
        result.model = await client.models.retrieve(question.model);
    },
};

const result = {};
try {
    await actions[what](result);
} catch (error) {
    result.error = { class: error.constructor.name, status: error.status, code: error.code, type: error.type, message: error.message };
}
console.log(JSON.stringify(result));
