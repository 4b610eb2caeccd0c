// SPDX-License-Identifier: Apache-2.0
// Google's own SDK, which judges the fake Gemini: it speaks to the fake directly, never to Sluice.
import { GoogleGenAI } from '@google/genai';

function requestOf(task) {
    const parts = [{ text: task.prompt }];
    if (task.image) parts.push({ inlineData: { mimeType: 'image/png', data: task.image } });
    const contents = [{ role: 'user', parts }];
    const config = { maxOutputTokens: task.maxTokens };
    if (task.calls) {
        contents.push({ role: 'model', parts: task.calls.map(({ name, arguments: args }) => ({ functionCall: { name, args } })) }, {
            role: 'user',
            parts: task.calls.map(({ name }, i) => ({ functionResponse: { name, response: { output: task.results[i] } } })),
        });
    }
    if (task.tools) {
        config.tools = [{
            functionDeclarations: task.tools.map(({ name, description, parameters }) => (
                { name, description, parametersJsonSchema: parameters })),
        }];
    }
    if (task.schema) Object.assign(config, { responseMimeType: 'application/json', responseJsonSchema: task.schema });
    return { model: task.model, contents, config };
}

function add(answer, result) {
    result.text += answer.text ?? '';
    result.pieces += answer.text ? 1 : 0;
    result.finish = answer.candidates[0].finishReason ?? result.finish;
    for (const { name, args } of answer.functionCalls ?? []) result.calls.push({ name, arguments: args });
    const usage = answer.usageMetadata;
    if (usage) {
        result.usage = {
            input: usage.promptTokenCount, cached: usage.cachedContentTokenCount,
            output: usage.candidatesTokenCount + usage.thoughtsTokenCount, reasoning: usage.thoughtsTokenCount,
        };
    }
}

async function ask(task, result) {
    const { models } = new GoogleGenAI({ apiKey: task.key, httpOptions: { baseUrl: task.base, retryOptions: { attempts: 1 } } });
    const request = requestOf(task);
    if (!task.stream) return add(await models.generateContent(request), result);
    for await (const chunk of await models.generateContentStream(request)) {
        add(chunk, result);
        if (task.leave) return undefined;
    }
    return undefined;
}

export default { 'genai-node': ask };
