BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'old');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["accuracy"]');
INSERT INTO "study_system_attributes" VALUES(2,1,'dashboard:1:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(3,1,'dashboard:1:note_str:0','"**f32k5s1-f24k7s2** \u00b7 complete \u00b7 2 epochs \u00b7 683,072 MACs \u00b7 39,458 parameters\n\n| | filters | kernel | stride |\n|---|---|---|---|\n| conv1 | 32 | 5 | 1 |\n| conv2 | 24 | 7 | 2 |"');
INSERT INTO "study_system_attributes" VALUES(4,1,'dashboard:2:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(5,1,'dashboard:2:note_str:0','"**f32k7s1-f16k7s1** \u00b7 complete \u00b7 2 epochs \u00b7 1,387,552 MACs \u00b7 28,154 parameters\n\n| | filters | kernel | stride |\n|---|---|---|---|\n| conv1 | 32 | 7 | 1 |\n| conv2 | 16 | 7 | 1 |"');
INSERT INTO "study_system_attributes" VALUES(6,1,'dashboard:3:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(7,1,'dashboard:3:note_str:0','"**f32k5s1-f16k7s1** \u00b7 complete \u00b7 2 epochs \u00b7 1,310,752 MACs \u00b7 27,386 parameters\n\n| | filters | kernel | stride |\n|---|---|---|---|\n| conv1 | 32 | 5 | 1 |\n| conv2 | 16 | 7 | 1 |"');
INSERT INTO "study_system_attributes" VALUES(8,1,'dashboard:4:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(9,1,'dashboard:4:note_str:0','"**f16k5s2-f32k7s2** \u00b7 complete \u00b7 2 epochs \u00b7 110,672 MACs \u00b7 25,866 parameters\n\n| | filters | kernel | stride |\n|---|---|---|---|\n| conv1 | 16 | 5 | 2 |\n| conv2 | 32 | 7 | 2 |"');
INSERT INTO "study_system_attributes" VALUES(10,1,'dashboard:5:note_ver','1');
INSERT INTO "study_system_attributes" VALUES(11,1,'dashboard:5:note_str:0','"**f24k3s1-f24k3s2** \u00b7 complete \u00b7 2 epochs \u00b7 105,504 MACs \u00b7 6,418 parameters\n\n| | filters | kernel | stride |\n|---|---|---|---|\n| conv1 | 24 | 3 | 1 |\n| conv2 | 24 | 3 | 2 |"');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'nas_optuna:format','1');
INSERT INTO "study_user_attributes" VALUES(2,1,'nas_optuna:spec','{"data": {"name": "digits", "train_limit": 200, "validation_fraction": 0.2, "split_seed": 0, "select_on": "validation"}, "space": {"name": "conv", "depth": 2}, "recipe": {"epochs": 2, "batch_size": 32, "optimizer": "adamw", "learning_rate": 0.003, "momentum": 0.9, "weight_decay": 0.0, "schedule": "cosine", "init": "kaiming", "input_size": 8, "precision": "auto", "seed": 0, "repeats": 1, "shift": 0, "flip": false, "cutout": 0, "cuda_graphs": true, "compile": false}, "sampler": {"name": "random", "seed": 0}, "pruner": {"name": "none"}, "supernet": {"mode": "mixture", "update": "alternating", "order": 1, "epochs": 20, "warmup_epochs": 3, "batch_size": 32, "optimizer": "adamw", "learning_rate": 0.003, "momentum": 0.9, "weight_decay": 0.0003, "schedule": "cosine", "clip": 5.0, "alpha_learning_rate": 0.02, "alpha_weight_decay": null, "alpha_init": "zero", "temperature": null, "temperature_decay": null, "latency_loss": "linear", "latency_weight": 0.0, "latency_power": null, "latency_target": null, "seed": 0}, "objectives": ["accuracy"], "limits": {}, "latency": {"table": null, "force": false, "threads": 1, "batch_size": 1, "precision": "fp32"}, "reuse_duplicates": true}');
INSERT INTO "study_user_attributes" VALUES(3,1,'nas_optuna:space','{"name": "conv", "version": 1, "in_channels": 1, "classes": 10, "input_size": 8, "parameters": {"conv1.filters": [16, 24, 32, 48], "conv1.kernel": [3, 5, 7], "conv1.stride": [1, 2], "conv2.filters": [16, 24, 32, 48], "conv2.kernel": [3, 5, 7], "conv2.stride": [1, 2]}}');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,1,0.525,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,2,0.65,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,2,1,0.35,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,2,2,0.5,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,3,1,0.525,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(6,3,2,0.7,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(7,4,1,0.3,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(8,4,2,0.525,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(9,5,1,0.4,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(10,5,2,0.325,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'conv1.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(2,1,'conv1.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(3,1,'conv1.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(4,1,'conv2.filters',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(5,1,'conv2.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(6,1,'conv2.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(7,2,'conv1.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(8,2,'conv1.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(9,2,'conv1.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(10,2,'conv2.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(11,2,'conv2.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(12,2,'conv2.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(13,3,'conv1.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(14,3,'conv1.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(15,3,'conv1.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(16,3,'conv2.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(17,3,'conv2.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(18,3,'conv2.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(19,4,'conv1.filters',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(20,4,'conv1.kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(21,4,'conv1.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(22,4,'conv2.filters',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(23,4,'conv2.kernel',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(24,4,'conv2.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(25,5,'conv1.filters',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(26,5,'conv1.kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(27,5,'conv1.stride',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(28,5,'conv2.filters',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [16, 24, 32, 48]}}');
INSERT INTO "trial_params" VALUES(29,5,'conv2.kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [3, 5, 7]}}');
INSERT INTO "trial_params" VALUES(30,5,'conv2.stride',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'worker','"vm/946f48a1-9230-4823-80b1-da705c1b361e/3514/30697"');
INSERT INTO "trial_user_attributes" VALUES(5,1,'architecture','"f32k5s1-f24k7s2"');
INSERT INTO "trial_user_attributes" VALUES(6,1,'recipe','"445878e17566"');
INSERT INTO "trial_user_attributes" VALUES(7,1,'seed','0');
INSERT INTO "trial_user_attributes" VALUES(8,1,'device','"AMD EPYC"');
INSERT INTO "trial_user_attributes" VALUES(9,1,'origin','"RandomSampler"');
INSERT INTO "trial_user_attributes" VALUES(10,1,'accuracy','0.65');
INSERT INTO "trial_user_attributes" VALUES(11,1,'macs','683072');
INSERT INTO "trial_user_attributes" VALUES(12,1,'params','39458');
INSERT INTO "trial_user_attributes" VALUES(13,1,'memory','180488');
INSERT INTO "trial_user_attributes" VALUES(14,1,'epochs','2');
INSERT INTO "trial_user_attributes" VALUES(15,1,'seconds','0.126');
INSERT INTO "trial_user_attributes" VALUES(16,2,'worker','"vm/946f48a1-9230-4823-80b1-da705c1b361e/3514/30697"');
INSERT INTO "trial_user_attributes" VALUES(20,2,'architecture','"f32k7s1-f16k7s1"');
INSERT INTO "trial_user_attributes" VALUES(21,2,'recipe','"445878e17566"');
INSERT INTO "trial_user_attributes" VALUES(22,2,'seed','0');
INSERT INTO "trial_user_attributes" VALUES(23,2,'device','"AMD EPYC"');
INSERT INTO "trial_user_attributes" VALUES(24,2,'origin','"RandomSampler"');
INSERT INTO "trial_user_attributes" VALUES(25,2,'accuracy','0.5');
INSERT INTO "trial_user_attributes" VALUES(26,2,'macs','1387552');
INSERT INTO "trial_user_attributes" VALUES(27,2,'params','28154');
INSERT INTO "trial_user_attributes" VALUES(28,2,'memory','135272');
INSERT INTO "trial_user_attributes" VALUES(29,2,'epochs','2');
INSERT INTO "trial_user_attributes" VALUES(30,2,'seconds','0.08');
INSERT INTO "trial_user_attributes" VALUES(31,3,'worker','"vm/946f48a1-9230-4823-80b1-da705c1b361e/3514/30697"');
INSERT INTO "trial_user_attributes" VALUES(35,3,'architecture','"f32k5s1-f16k7s1"');
INSERT INTO "trial_user_attributes" VALUES(36,3,'recipe','"445878e17566"');
INSERT INTO "trial_user_attributes" VALUES(37,3,'seed','0');
INSERT INTO "trial_user_attributes" VALUES(38,3,'device','"AMD EPYC"');
INSERT INTO "trial_user_attributes" VALUES(39,3,'origin','"RandomSampler"');
INSERT INTO "trial_user_attributes" VALUES(40,3,'accuracy','0.7');
INSERT INTO "trial_user_attributes" VALUES(41,3,'macs','1310752');
INSERT INTO "trial_user_attributes" VALUES(42,3,'params','27386');
INSERT INTO "trial_user_attributes" VALUES(43,3,'memory','132200');
INSERT INTO "trial_user_attributes" VALUES(44,3,'epochs','2');
INSERT INTO "trial_user_attributes" VALUES(45,3,'seconds','0.088');
INSERT INTO "trial_user_attributes" VALUES(46,4,'worker','"vm/946f48a1-9230-4823-80b1-da705c1b361e/3514/30697"');
INSERT INTO "trial_user_attributes" VALUES(50,4,'architecture','"f16k5s2-f32k7s2"');
INSERT INTO "trial_user_attributes" VALUES(51,4,'recipe','"445878e17566"');
INSERT INTO "trial_user_attributes" VALUES(52,4,'seed','0');
INSERT INTO "trial_user_attributes" VALUES(53,4,'device','"AMD EPYC"');
INSERT INTO "trial_user_attributes" VALUES(54,4,'origin','"RandomSampler"');
INSERT INTO "trial_user_attributes" VALUES(55,4,'accuracy','0.525');
INSERT INTO "trial_user_attributes" VALUES(56,4,'macs','110672');
INSERT INTO "trial_user_attributes" VALUES(57,4,'params','25866');
INSERT INTO "trial_user_attributes" VALUES(58,4,'memory','106088');
INSERT INTO "trial_user_attributes" VALUES(59,4,'epochs','2');
INSERT INTO "trial_user_attributes" VALUES(60,4,'seconds','0.05');
INSERT INTO "trial_user_attributes" VALUES(61,5,'worker','"vm/946f48a1-9230-4823-80b1-da705c1b361e/3514/30697"');
INSERT INTO "trial_user_attributes" VALUES(65,5,'architecture','"f24k3s1-f24k3s2"');
INSERT INTO "trial_user_attributes" VALUES(66,5,'recipe','"445878e17566"');
INSERT INTO "trial_user_attributes" VALUES(67,5,'seed','0');
INSERT INTO "trial_user_attributes" VALUES(68,5,'device','"AMD EPYC"');
INSERT INTO "trial_user_attributes" VALUES(69,5,'origin','"RandomSampler"');
INSERT INTO "trial_user_attributes" VALUES(70,5,'accuracy','0.325');
INSERT INTO "trial_user_attributes" VALUES(71,5,'macs','105504');
INSERT INTO "trial_user_attributes" VALUES(72,5,'params','6418');
INSERT INTO "trial_user_attributes" VALUES(73,5,'memory','42728');
INSERT INTO "trial_user_attributes" VALUES(74,5,'epochs','2');
INSERT INTO "trial_user_attributes" VALUES(75,5,'seconds','0.218');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,0.65,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,0.5,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,0.7,'FINITE');
INSERT INTO "trial_values" VALUES(4,4,0,0.525,'FINITE');
INSERT INTO "trial_values" VALUES(5,5,0,0.325,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-25 03:26:57.657836','2026-11-25 03:26:59.403595');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-25 03:26:59.544109','2026-11-25 03:26:59.665469');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-25 03:26:59.673391','2026-11-25 03:26:59.802275');
INSERT INTO "trials" VALUES(4,3,1,'COMPLETE','2026-11-25 03:26:59.809314','2026-11-25 03:26:59.912657');
INSERT INTO "trials" VALUES(5,4,1,'COMPLETE','2026-11-25 03:26:59.921721','2026-11-25 03:27:00.193962');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
